"""What commands say when they cannot do what was asked: one sentence on standard error, and an exit code."""

import sys


def fail(sentence: str, code: int = 1) -> int:
    """Print a sentence on standard error and return the exit code."""
    print(sentence, file=sys.stderr)
    return code
