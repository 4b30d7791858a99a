"""The upper bound for every reader of the stream: nats-py itself, pulling as fast as it can and doing nothing else."""

import asyncio
import json
import time

import nats
from nats.aio.msg import Msg

from consumers.stream import STREAM

PULL_EVENTS = 4_000


async def bare_rate(nats_url: str, after: int, last: int) -> float:
    """Return how many messages per second a plain client receives by callback, with two pulls in flight."""
    client = await nats.connect(nats_url)
    inbox = client.new_inbox()
    name = inbox.rsplit(".", 1)[1]
    received = 0
    credit = 0
    done = asyncio.Event()

    async def pull() -> None:
        nonlocal credit
        credit += PULL_EVENTS
        request = json.dumps({"batch": PULL_EVENTS, "expires": 30 * 10**9}).encode()
        await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{name}", request, reply=inbox)

    async def receive(message: Msg) -> None:
        nonlocal received, credit
        if not message.reply:
            return
        received += 1
        credit -= 1
        if received == last - after:
            done.set()
        elif credit <= PULL_EVENTS:
            await pull()

    subscription = await client.subscribe(inbox, cb=receive, pending_bytes_limit=0)
    config = {"name": name, "deliver_policy": "by_start_sequence", "opt_start_seq": after + 1, "ack_policy": "none"}
    request = json.dumps({"stream_name": STREAM, "config": config | {"mem_storage": True}}).encode()
    await client.request(f"$JS.API.CONSUMER.CREATE.{STREAM}.{name}", request)
    began = time.perf_counter()
    await pull()
    await pull()
    await done.wait()
    elapsed = time.perf_counter() - began
    await subscription.unsubscribe()
    await client.close()
    return (last - after) / elapsed
