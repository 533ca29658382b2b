"""The measurements behind every number in the documentation: `python -m bench`, or `make bench`."""
