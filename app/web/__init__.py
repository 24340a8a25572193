"""What every HTTP request goes through, and how routes read queries and answer."""
