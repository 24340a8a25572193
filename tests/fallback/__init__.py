"""What happens to a request with several targets when some of them fail, over real sockets."""
