"""Every fault of a gateway's surroundings, met directly and behind nginx; what was seen is docs/faults.md."""
