"""Measurements behind every number that the project gives: `python -m bench`, or `make bench`."""
