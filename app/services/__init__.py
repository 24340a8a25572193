"""The services: the gateway's decisions and its calls to others. They know no Flask request and no SQL."""
