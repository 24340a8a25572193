"""Tests of `app/routes`."""
