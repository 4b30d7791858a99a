"""Reads of the live generation: the statements, how they are batched, and what limits them."""
