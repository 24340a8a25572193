"""What gunicorn calls."""
