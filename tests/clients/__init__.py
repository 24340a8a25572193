"""Official clients in other languages, before the real gateway."""
