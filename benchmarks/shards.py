"""One database beside two that hold half of the customers each: what dividing the read model by customer would bring.

Started as `python -m benchmarks.shards` (QUICK=1: a trial; SCALE=0.2: a fifth of the standard data set); no part of
`make bench`. All three databases follow one stream. The halves together must equal the whole before anything is
printed. CPU time comes from /proc and is comparable also on a shared machine; rates are not, because two databases need
more cores than one.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg

from benchmarks import proc
from benchmarks.cold_reads import distinct_paths
from benchmarks.dataset import BUSY_CUSTOMER, STANDARD, DataSet
from benchmarks.effort import Effort, chosen
from benchmarks.http import Endpoint
from benchmarks.load import under_load
from benchmarks.peers.same_answers import same_answers
from benchmarks.rows import Row, show
from benchmarks.shard_projector import shard_of
from benchmarks.stack import ADMIN, MAX_WAL_SIZE, SECRET, TOKEN_S
from ops.devstack.programs import Api, Projector, child_environment, http_get, run_command
from ops.devstack.servers.child import ChildProcess, launch
from ops.devstack.servers.nats import NatsServer
from ops.devstack.servers.ports import free_port
from ops.devstack.servers.postgres import PostgresServer
from ops.devstack.supervisor import in_steps
from ops.publisher import Publication, publish_events
from ops.token import sign

SHARDS: Final = 2
SHARED_BUFFERS: Final = "512MB"
DEADLINE_S: Final = 1_800.0
POLL_S: Final = 0.05
COMPARED_CUSTOMERS: Final = 100
OWN_TABLES: Final = ("customer", "membership", "customer_summary")
REFERENCE_TABLES: Final = ("campaign", "campaign_counters")


class ShardProjector(Projector):
    """The projector of one shard."""

    def __init__(self, log: Path, environment: dict[str, str], number: int) -> None:
        super().__init__(log, environment, ())
        self._number = number

    def _launch(self, descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
        command = (sys.executable, "-m", "benchmarks.shard_projector", str(self._number), str(SHARDS))
        return launch(command, self.log, environment=self._environment, descriptors=descriptors)


class Database:
    """A PostgreSQL server with the whole read model, or one shard of it, its projector and its API."""

    def __init__(self, postgres: PostgresServer, nats: NatsServer, folder: Path, number: int | None) -> None:
        name = "whole" if number is None else f"shard-{number}"
        self.number = number
        self.postgres = postgres
        self.endpoint = Endpoint(free_port(), sign(SECRET, ADMIN, admin=True, ttl_s=TOKEN_S))
        self.settings = child_environment(postgres.url, nats.url, SECRET, self.endpoint.port)
        self.log = folder / f"{name}.log"
        self.projector = (
            Projector(self.log, self.settings, ())
            if number is None
            else ShardProjector(self.log, self.settings, number)
        )
        self.api = Api(folder / f"{name}-api.log", self.settings, ())

    def postgres_cpu_s(self) -> float:
        """Return the CPU time of the server so far."""
        return proc.cpu_with_ended_s(self.postgres.pid)

    async def position(self) -> int:
        """Return the applied position."""
        return int(await self.fetchval("SELECT position FROM control.checkpoint WHERE generation = 'g1'"))

    async def is_done(self, position: int) -> bool:
        """Return whether everything up to `position` is applied, and every campaign's keys are copied."""
        query = "SELECT position >= $1 AND NOT EXISTS (SELECT FROM control.fan_out) FROM control.checkpoint"
        return bool(await self.fetchval(query, position))

    async def fetchval(self, query: str, *values: object) -> Any:  # noqa: ANN401 - what a query returns
        """Return the value of a query on a connection of its own."""
        connection = await asyncpg.connect(self.postgres.url)
        try:
            return await connection.fetchval(query, *values)
        finally:
            await connection.close()


class System(NamedTuple):
    """The databases that are measured together: the whole one, or both halves."""

    name: str
    databases: tuple[Database, ...]

    def postgres_cpu_s(self) -> float:
        """Return the CPU time of the servers so far."""
        return sum(database.postgres_cpu_s() for database in self.databases)

    def apis_cpu_s(self) -> float:
        """Return the CPU time of the APIs so far."""
        return sum(proc.cpu_s(database.api.pid) for database in self.databases)


class Cost(NamedTuple):
    """One measurement: events or requests per second, and the CPU time of each in the process and in PostgreSQL.

    Of two databases, the slower one's events per second, because both follow the whole stream, and the sum of the rest.
    """

    rate: float
    process_us: float
    postgres_us: float

    def __str__(self) -> str:
        return f"{self.process_us:.1f} + {self.postgres_us:.1f} µs of CPU each, {self.rate:,.0f}/s"


@asynccontextmanager
async def running() -> AsyncIterator[tuple[NatsServer, System, System]]:
    """Start the broker and three databases with their projectors; yield the whole system and the divided one."""
    with tempfile.TemporaryDirectory(prefix="membership-shards-") as name:
        folder = Path(name)
        started: list[ChildProcess] = []
        try:
            nats = NatsServer(folder / "nats")
            await in_steps(nats.starting())
            started.append(nats)
            databases = []
            for number in (None, *range(SHARDS)):
                settings = {"shared_buffers": SHARED_BUFFERS, "max_wal_size": MAX_WAL_SIZE}
                postgres = PostgresServer(folder / f"postgres-{number}", settings=settings)
                await in_steps(postgres.starting())
                started.append(postgres)
                database = Database(postgres, nats, folder, number)
                await in_steps(run_command("migrate", database.log, database.settings, ()))
                started.append(database.projector)
                databases.append(database)
            await _create_stream(databases[0])
            yield nats, System("one", (databases[0],)), System("two", tuple(databases[1:]))
        finally:
            for child in reversed(started):
                child.stop()


async def _create_stream(database: Database) -> None:
    """Let a projector create the stream and stop it, so that every measurement starts with a backlog."""
    await in_steps(database.projector.starting())
    await until(lambda: database.fetchval("SELECT bool_and(caught_up_at IS NOT NULL) FROM control.checkpoint"), "start")
    database.projector.stop()


async def published(nats_url: str, events: Iterable[Publication]) -> int:
    """Publish and return the last position."""
    return max([receipt.position async for receipt in publish_events(nats_url, events)])


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for an asynchronous condition; raise after a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not await condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {DEADLINE_S} s")
        await asyncio.sleep(POLL_S)


async def apply(system: System, last: int) -> Cost:
    """Let the system's projectors apply everything up to `last` at the same time; return the sum of their costs."""
    costs = await asyncio.gather(*(_apply(database, last) for database in system.databases))
    return Cost(
        min(cost.rate for cost in costs), sum(cost.process_us for cost in costs), sum(c.postgres_us for c in costs)
    )


async def _apply(database: Database, last: int) -> Cost:
    """Start a projector, measure from its first batch to the end of its fan-outs, and stop it."""
    before = first = await database.position()
    await in_steps(database.projector.starting())

    async def began() -> bool:
        nonlocal first
        first = await database.position()
        return first > before

    await until(began, "the first batch")
    began_s, process_s, postgres_s = time.perf_counter(), proc.cpu_s(database.projector.pid), database.postgres_cpu_s()
    await until(lambda: database.is_done(last), f"position {last}")
    took_s, events = time.perf_counter() - began_s, last - first
    if not events:
        raise RuntimeError("everything was applied in one batch; raise SCALE")
    process_s, postgres_s = proc.cpu_s(database.projector.pid) - process_s, database.postgres_cpu_s() - postgres_s
    database.projector.stop()
    return Cost(events / took_s, process_s / events * 1e6, postgres_s / events * 1e6)


async def read(system: System, paths: Sequence[str], seconds: float) -> Cost:
    """Put the system's APIs under load, each with the requests for its customers and its share of the connections."""
    shares = [
        [path for path in paths if database.number in (None, shard_of(_subject(path), SHARDS))]
        for database in system.databases
    ]
    process_s, postgres_s = system.apis_cpu_s(), system.postgres_cpu_s()
    loads = await asyncio.gather(
        *(
            under_load(database.endpoint, share, seconds, threads=SHARDS // len(system.databases))
            for database, share in zip(system.databases, shares, strict=True)
        )
    )
    rate = sum(load.rate for load in loads)
    requests = rate * seconds
    return Cost(
        rate,
        (system.apis_cpu_s() - process_s) / requests * 1e6,
        (system.postgres_cpu_s() - postgres_s) / requests * 1e6,
    )


def _subject(path: str) -> str:
    """Return the subject of the customer that a path reads."""
    return f"membership.customer.{path.split('/')[2]}"


async def require_equal(one: System, two: System) -> None:
    """Raise unless the halves together have the rows of the whole, each row once, and the campaigns in both."""
    for table in (*OWN_TABLES, *REFERENCE_TABLES):
        # An order-independent checksum of all columns.
        query = f"SELECT (count(*), coalesce(sum(hashtextextended(t::text, 0)), 0))::text FROM g1.{table} AS t"  # noqa: S608
        whole, *halves = [_numbers(await database.fetchval(query)) for database in (*one.databases, *two.databases)]
        divided = [tuple(map(sum, zip(*halves, strict=True)))] if table in OWN_TABLES else halves
        if any(found != whole for found in divided) or not all(count for count, _ in halves):
            raise RuntimeError(f"{table}: whole {whole}, halves {halves}")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.strip("()").split(","))


async def compare_answers(one: System, two: System, customers: Sequence[str], requests: int) -> int:
    """Send requests to the whole and to the customer's half; return how many answers were equal, raise at another."""
    (whole,) = one.databases
    answered = 0
    for half in two.databases:
        own = [customer for customer in customers if shard_of(f"membership.customer.{customer}", SHARDS) == half.number]
        token = whole.endpoint.token
        answered += await asyncio.to_thread(same_answers, whole.endpoint.url, half.endpoint.url, token, own, requests)
    return answered


async def sizes(database: Database, nats_folder: Path, messages: int) -> list[Row]:
    """Return the bytes of tables and indexes per row, and of the stream per message."""
    rows = []
    for table in (*OWN_TABLES, *REFERENCE_TABLES):
        text = await database.fetchval(
            f"SELECT (count(*), pg_table_size('g1.{table}'), pg_indexes_size('g1.{table}'))::text FROM g1.{table}"  # noqa: S608
        )
        count, table_bytes, index_bytes = _numbers(text)
        shown = f"{table_bytes / count:,.0f} + {index_bytes / count:,.0f} bytes a row, table + indexes"
        rows.append(Row("", f"{count:,} rows of {table}", shown))
    each = await asyncio.to_thread(_size, nats_folder) / messages
    return [*rows, Row("", f"{messages:,} messages of the stream", f"{each:,.0f} bytes each, on disk")]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


async def measure(effort: Effort, share: float) -> list[Row]:
    """Load all three databases, compare them, and measure intake and cold reads in turn."""
    data = DataSet(STANDARD.of(share))
    async with running() as (nats, one, two):
        last = await published(nats.url, data.events())
        loaded = {}
        for system in (one, two):
            loaded[system.name] = await apply(system, last)
        whole = one.databases[0]
        await whole.fetchval("VACUUM ANALYZE")
        measured = await sizes(whole, nats.store_dir, last)
        live: dict[str, list[Cost]] = {"one": [], "two": []}
        for number in range(effort.rounds):
            last = await published(nats.url, data.live_events(effort.live_events))
            for system in (one, two) if number % 2 == 0 else (two, one):
                live[system.name].append(await apply(system, last))
        await require_equal(one, two)
        async with AsyncExitStack() as stack:
            await _start_apis(stack, (*one.databases, *two.databases))
            customers = [BUSY_CUSTOMER, *data.customers[:COMPARED_CUSTOMERS]]
            answers = await compare_answers(one, two, customers, effort.same_answers)
            reads: dict[str, list[Cost]] = {"one": [], "two": []}
            for number in range(effort.rounds):
                for system in (one, two) if number % 2 == 0 else (two, one):
                    paths = distinct_paths(data, effort, number, f"shards-{system.name}")
                    reads[system.name].append(await read(system, paths, effort.read_s))
    return [
        *measured,
        Row("", f"{answers} answers, and all rows", "two halves equal the whole"),
        _row(f"first load of {data.size.memberships:,} memberships", {k: [v] for k, v in loaded.items()}),
        _row(f"catch-up of {effort.live_events:,} mixed events, {effort.rounds} rounds", live),
        _row(f"cold reads, {effort.rounds} rounds", reads),
    ]


async def _start_apis(stack: AsyncExitStack, databases: Iterable[Database]) -> None:
    for database in databases:
        await in_steps(database.api.starting())
        stack.callback(database.api.stop)
    for database in databases:
        port = database.endpoint.port

        async def ready(port: int = port) -> bool:
            response = await asyncio.to_thread(http_get, port, "/health/ready")
            return response is not None and response[0] == 200  # noqa: PLR2004

        await until(ready, f"the API on port {port}")


def _row(what: str, costs: dict[str, list[Cost]]) -> Row:
    one, two = (_median(costs[name]) for name in ("one", "two"))
    cpu = [cost.process_us + cost.postgres_us for cost in (two, one)]
    return Row("", what, f"two: {two}", f"one: {one}", f"CPU {cpu[0] / cpu[1]:.2f} ×, rate {two.rate / one.rate:.2f} ×")


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))


async def main() -> None:
    """Measure and print."""
    effort = chosen()
    show(await measure(effort, float(os.environ.get("SCALE", effort.share))))


if __name__ == "__main__":
    asyncio.run(main())
