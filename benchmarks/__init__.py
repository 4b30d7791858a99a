"""Measures what users feel, each figure beside its bound in one run: `make bench`."""
