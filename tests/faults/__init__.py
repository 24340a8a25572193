"""Faults of everything around the gateway, directly and behind nginx; the results are in docs/faults.md."""
