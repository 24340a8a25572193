"""The records of requests: on the local disk first, then in PostgreSQL."""
