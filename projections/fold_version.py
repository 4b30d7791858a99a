"""The version of the fold: equal versions derive the same rows from the same events."""

from typing import Final

FOLD_VERSION: Final = "2"
"""Increase it when the code or SQL that derives rows from events changes; renames, moves and comments do not count.

A rebuild started by another version starts over. Releases before 0.2.0 recorded a digest in its place, which never
equals a version. tests/projections/test_fold_version.py fails when the code changes without the version.
"""
