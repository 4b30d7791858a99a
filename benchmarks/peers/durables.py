"""The durable consumers of the FastStream peer, read without FastStream to measure its progress.

Started as `python -m benchmarks.peers.durables --nats-url URL [--forget]`: prints how many events remain.
"""

import argparse
import asyncio
import os
import sys
from typing import Final

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

STREAM: Final = "MEMBERSHIP"
DURABLES: Final = {
    "customer": ("peer-customer", "membership.customer.*"),
    "campaign": ("peer-campaign", "membership.campaign.*"),
    "counters": ("peer-counters", "membership.counters.*"),
    "target": ("peer-target", "membership.target.*.*"),
}
"""By family of subjects: the consumer's name and what it reads."""
ACK_PENDING_MAX: Final = 5_000
_EVERY_S: Final = 0.05


async def remaining(nats_url: str) -> int | None:
    """Return how many events are not applied yet, delivered or not; None before all consumers exist."""
    client = await nats.connect(nats_url)
    try:
        consumers = [await client.jetstream().consumer_info(STREAM, durable) for durable, _ in DURABLES.values()]
    except NotFoundError:
        return None
    finally:
        await client.close()
    return sum((consumer.num_pending or 0) + (consumer.num_ack_pending or 0) for consumer in consumers)


async def wait_until_applied(nats_url: str, deadline_s: float) -> None:
    """Return once no event remains; raises TimeoutError."""
    async with asyncio.timeout(deadline_s):
        while await remaining(nats_url) != 0:  # noqa: ASYNC110 - the broker sends no notification
            await asyncio.sleep(_EVERY_S)


async def begin_after(nats_url: str, position: int) -> None:
    """Recreate the consumers, so that the next start of the peer reads from after a position."""
    await delete(nats_url)
    client = await nats.connect(nats_url)
    for durable, subject in DURABLES.values():
        config = ConsumerConfig(
            durable_name=durable,
            filter_subject=subject,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=position + 1,
            ack_policy=AckPolicy.EXPLICIT,
            max_ack_pending=ACK_PENDING_MAX,
        )
        await client.jetstream().add_consumer(STREAM, config)
    await client.close()


async def delete(nats_url: str) -> None:
    """Delete the consumers, so that the next start of the peer reads from the beginning."""
    client = await nats.connect(nats_url)
    for durable, _ in DURABLES.values():
        try:
            await client.jetstream().delete_consumer(STREAM, durable)
        except NotFoundError:
            continue
    await client.close()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.durables", description=__doc__)
    parser.add_argument("--nats-url", default=os.environ.get("PEER_NATS_URL"), help="or PEER_NATS_URL")
    parser.add_argument("--forget", action="store_true", help="delete the consumers")
    arguments = parser.parse_args()
    if not arguments.nats_url:
        parser.error("--nats-url is required")
    if arguments.forget:
        asyncio.run(delete(arguments.nats_url))
        return
    sys.stdout.write(f"{asyncio.run(remaining(arguments.nats_url))}\n")


if __name__ == "__main__":
    main()
