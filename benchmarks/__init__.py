"""Measures what users notice, most figures with a peer or a reference from the same run: `make bench`."""
