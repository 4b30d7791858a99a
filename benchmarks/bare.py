"""The bound of everything that reads the stream: nats-py itself, pulling as fast as it can and doing nothing."""

import asyncio
import json
import time

import nats
from nats.aio.msg import Msg

from consumers.stream import STREAM

PULL_EVENTS = 4_000


async def bare_rate(nats_url: str, after: int, last: int) -> float:
    """Return how many messages a second a plain client is handed by callback, with two pulls under way."""
    client = await nats.connect(nats_url)
    inbox = client.new_inbox()
    name = inbox.rsplit(".", 1)[1]
    told = 0
    credit = 0
    done = asyncio.Event()

    async def pull() -> None:
        nonlocal credit
        credit += PULL_EVENTS
        request = json.dumps({"batch": PULL_EVENTS, "expires": 30 * 10**9}).encode()
        await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{name}", request, reply=inbox)

    async def take(message: Msg) -> None:
        nonlocal told, credit
        if not message.reply:
            return
        told += 1
        credit -= 1
        if told == last - after:
            done.set()
        elif credit <= PULL_EVENTS:
            await pull()

    subscription = await client.subscribe(inbox, cb=take, pending_bytes_limit=0)
    config = {"name": name, "deliver_policy": "by_start_sequence", "opt_start_seq": after + 1, "ack_policy": "none"}
    asked = json.dumps({"stream_name": STREAM, "config": config | {"mem_storage": True}}).encode()
    await client.request(f"$JS.API.CONSUMER.CREATE.{STREAM}.{name}", asked)
    began = time.perf_counter()
    await pull()
    await pull()
    await done.wait()
    elapsed = time.perf_counter() - began
    await subscription.unsubscribe()
    await client.close()
    return (last - after) / elapsed
