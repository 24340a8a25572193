"""What `make run` adds to the gateway: an embedded PostgreSQL, the sandbox, a key, and one command for all of it.

Production never comes here: it starts `gunicorn wsgi:app`.
"""
