"""Gives the peers the data this service answers from: recreated tables, filled from the live generation.

Started as `python -m benchmarks.peers.load --database-url URL [--empty]`; asyncpg is the only package it needs.
"""

import argparse
import asyncio
import os

import asyncpg

from projections.store.queries import blocks, for_generation, generation

FILLED = ("fill_customer", "fill_campaign", "fill_counters", "fill_campaign_target")


async def load(database_url: str, *, empty: bool = False) -> int:
    """Recreate schema `peer` in this service's database and return its number of rows; none with `empty`."""
    statements = blocks("benchmarks.peers", "schema.sql")
    connection = await asyncpg.connect(database_url, server_settings={"timezone": "UTC"})
    rows = 0
    try:
        await connection.execute(statements["tables"])
        if not empty:
            live = generation(await connection.fetchval("SELECT generation FROM control.live"))
            async with connection.transaction(isolation="repeatable_read"):  # all tables as of one position
                for name in FILLED:
                    filled = await connection.execute(for_generation(statements[name], live))
                    rows += int(filled.rsplit(" ", 1)[1])
        await connection.execute(statements["indexes"])
        for table in ("customer", "campaign", "counters", "campaign_target"):
            await connection.execute(f"VACUUM (ANALYZE) peer.{table}")
    finally:
        await connection.close()
    return rows


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.load", description=__doc__)
    parser.add_argument("--database-url", default=os.environ.get("PEER_DATABASE_URL"), help="or PEER_DATABASE_URL")
    parser.add_argument(
        "--empty", action="store_true", help="create the tables without rows, for faststream_app to fill"
    )
    arguments = parser.parse_args()
    if not arguments.database_url:
        parser.error("--database-url is required")
    asyncio.run(load(arguments.database_url, empty=arguments.empty))


if __name__ == "__main__":
    main()
