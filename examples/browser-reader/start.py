"""Builds the page, starts a dev stack that lets this page call its API, and serves the page until Ctrl-C."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any, Final

HERE: Final = Path(__file__).parent
START_S: Final = 120.0
"""The first start creates a database and publishes the demo data."""
STOP_S: Final = 30.0


def main() -> None:
    """Run the example."""
    options = _options()
    _build()
    server = ThreadingHTTPServer(("127.0.0.1", options.port), partial(SimpleHTTPRequestHandler, directory=str(HERE)))
    origin = f"http://127.0.0.1:{server.server_port}"
    signal.signal(signal.SIGTERM, _interrupt)
    began_ns = time.time_ns()
    stack = _start_stack(options.data_dir, origin)
    try:
        endpoints = _wait_until_ready(stack, options.data_dir / "dev.json", began_ns)
        print(f"Page   {origin}/?api={endpoints['api_url']}\nToken  {endpoints['admin_token']}", flush=True)
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        stack.terminate()
        stack.wait(STOP_S)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=5173, help="the page's port; 0 takes any free one")
    parser.add_argument("--data-dir", type=Path, default=Path(".membership"), help="the dev stack's folder")
    return parser.parse_args()


def _build() -> None:
    for command in (["npm", "ci", "--no-audit", "--no-fund", "--silent"], ["npm", "run", "--silent", "build"]):
        subprocess.run(command, cwd=HERE, check=True)  # noqa: S603 - constants


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _start_stack(folder: Path, origin: str) -> subprocess.Popen[bytes]:
    """Start `membership dev`; the setting is what an operator sets for a real page."""
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "ops", "dev", "--port", "0", "--data-dir", str(folder)],
        env=os.environ | {"MEMBERSHIP_CORS_ORIGINS": origin, "PYTHONPATH": str(HERE.parents[1])},
        stdout=subprocess.DEVNULL,
    )


def _wait_until_ready(stack: subprocess.Popen[bytes], addresses: Path, began_ns: int) -> Any:  # noqa: ANN401 - a JSON document
    """Return the stack's addresses once it has written them; a file of an earlier stack does not count."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and stack.poll() is None:
        if addresses.exists() and addresses.stat().st_mtime_ns >= began_ns:
            return json.loads(addresses.read_bytes())
        time.sleep(0.1)
    sys.exit("The dev stack did not start: its message above or the log files in its folder say why.")


if __name__ == "__main__":
    main()
