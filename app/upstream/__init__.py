"""The HTTP client that speaks to providers, the only home of requests and urllib3."""
