"""The version of the fold: it tells whether two releases derive the same rows from the same events."""

from typing import Final

FOLD_VERSION: Final = "1"
"""Raised when the code or SQL that derives rows from events changes; renames, moves and comments do not count.

A rebuild that one version began is not finished by another: it begins again. Releases before 0.2.0 recorded a digest
in its place, which never equals a version. tests/projections/test_fold_version.py fails when the code changes alone.
"""
