"""Lets `python -m ops` be the `membership` command, which is how the dev stack starts its children."""

from ops.cli import main

if __name__ == "__main__":
    main()
