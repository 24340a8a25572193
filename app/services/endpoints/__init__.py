"""What tells one inference endpoint from another."""
