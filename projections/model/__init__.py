"""The projection as values: events, the fold and the rows it writes. No I/O."""
