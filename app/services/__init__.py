"""The services: what the gateway decides and whom it calls. They know no Flask request and no SQL."""
