"""Server-Sent Events from a provider to a client."""
