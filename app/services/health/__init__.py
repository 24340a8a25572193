"""Whether this process works, and what it counts."""
