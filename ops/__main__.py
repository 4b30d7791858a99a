"""Makes `python -m ops` the `membership` command; the dev stack starts its child processes this way."""

from ops.cli import main

if __name__ == "__main__":
    main()
