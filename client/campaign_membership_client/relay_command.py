"""`campaign-membership-relay`: runs a relay as a process, until SIGTERM or Ctrl-C."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from campaign_membership_client.errors import PublishError
from campaign_membership_client.outbox import CREATE, TABLE, statement
from campaign_membership_client.publisher import Publisher
from campaign_membership_client.relay import LOST, Relay

START_RETRY_S: Final = 2.0
_LOG: Final = logging.getLogger("campaign_membership_client")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments and run."""
    parser = _parser(os.environ)
    options = parser.parse_args(arguments)
    if options.print_table:
        sys.stdout.write(f"{statement(CREATE, options.table)};\n")
        return
    if not options.database_url or not options.nats_url:
        parser.error("give --database-url and --nats-url, or set OUTBOX_DATABASE_URL and MEMBERSHIP_NATS_URL")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    sys.exit(asyncio.run(_run(options)))


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="campaign-membership-relay",
        description="Publish the events that wait in an outbox table. Any number of relays may run in parallel.",
    )
    for option, variable, what in (
        ("--database-url", "OUTBOX_DATABASE_URL", "the producer's PostgreSQL"),
        ("--nats-url", "MEMBERSHIP_NATS_URL", "the broker"),
    ):
        default = environment.get(variable)
        parser.add_argument(option, default=default, help=f"{what}; default: {variable}")
    parser.add_argument("--nats-creds", help="a NATS creds file", default=environment.get("MEMBERSHIP_NATS_CREDS_FILE"))
    parser.add_argument("--table", default=TABLE, help="the outbox table; default: %(default)s")
    parser.add_argument("--until-empty", action="store_true", help="end when nothing waits, or with exit code 1")
    parser.add_argument("--print-table", action="store_true", help="print the statement that creates the table")
    return parser


async def _run(options: argparse.Namespace) -> int:
    task = asyncio.ensure_future(_relay(options))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        return await task
    return 0


async def _relay(options: argparse.Namespace) -> int:
    settings: dict[str, Any] = {"user_credentials": options.nats_creds} if options.nats_creds else {}
    while True:
        try:
            async with Publisher(options.nats_url, source="relay", options=settings) as publisher:
                relay = Relay(options.database_url, publisher, options.table)
                if not options.until_empty:
                    await relay.run()
                _LOG.info("%d events published", await relay.run_until_empty())
                return 0
        except (PublishError, *LOST) as problem:
            _LOG.error("%s", problem)
            if options.until_empty:
                return 1
        await asyncio.sleep(START_RETRY_S)


if __name__ == "__main__":
    main()
