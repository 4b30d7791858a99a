"""Measures what users notice, each figure with its peer or bound from the same run: `make bench`."""
