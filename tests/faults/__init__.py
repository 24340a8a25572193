"""Faults of everything around the gateway, directly and behind nginx; the results are docs/faults.md."""
