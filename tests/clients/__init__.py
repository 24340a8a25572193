"""Official clients in other languages against the real gateway."""
