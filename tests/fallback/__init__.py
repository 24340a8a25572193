"""Requests with several targets of which some fail, over real sockets."""
