"""Generates the reference pages that follow the code word by word; not part of an installation."""
