"""PostgreSQL's plans for pages, executed as the service executes them and written to docs/plans.md.

Started as `python -m benchmarks.plans`, the database in MEMBERSHIP_DATABASE_URL: prints the document for the customer
with 100,000 memberships of the standard data set.
"""

import asyncio
import os
import sys
from typing import Any, Final

import asyncpg

from benchmarks.dataset import BUSY_CUSTOMER
from projections.store import database
from projections.store.queries import Generation, generation
from service.parameters import ListRequest
from service.read_model.reads import page_statement, shape_of, values_of

EXPLAIN: Final = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF)"

SHOWN: Final[dict[str, dict[str, Any]]] = {
    "Page 1": {},
    "Page 1, oldest first": {"sort_dir": "asc"},
    "The last page, by offset": {"offset": 99_990},
    "By name": {"sort_field": "name", "sort_dir": "asc"},
    "By creation": {"sort_field": "created_at"},
    "By status, which no index serves": {"sort_field": "status"},
    "By a counter": {"sort_field": "contacts_total"},
    "A search": {"q": "renewal 123"},
    "A search for a letter, which no index serves": {"q": "e"},
}

HEAD: Final = """# Plans

Written by a full run of `make bench`; do not edit. How PostgreSQL executes pages of the standard data set's customer
with 100,000 memberships, by the statements of [`service/read_model/reads.sql`](../service/read_model/reads.sql).
`rows` is the number of rows a node returned; [tests/service/test_plans.py](../tests/service/test_plans.py) checks that
the plans use the indexes.
"""


async def plan_of(
    connection: asyncpg.Connection,
    name: Generation,
    request: ListRequest,
    scope: str | None = None,
    *,
    exact: bool = False,
    explain: str = EXPLAIN,
) -> str:
    """Return the executed plan of a request on a reader's connection; changes the settings of `connection`.

    `scope` is the owner who asks; None for an admin.
    """
    shape = shape_of(request, after=False, exact=exact)
    await connection.execute("RESET ALL")
    for setting, value in (database.GENERIC_PLANS if shape.generic_plan else database.CUSTOM_PLANS).items():
        await connection.execute(f"SET {setting} = {value}")
    values = values_of(request, scope, None, shape)
    statement = page_statement(name, shape)
    types = [kind.name.replace("int8", "bigint") for kind in (await connection.prepare(statement)).get_parameters()]
    await connection.execute(f"PREPARE page ({', '.join(types)}) AS {statement}")
    arguments = ", ".join(_literal([value] if shape.batchable else value) for value in values)
    rows = await connection.fetch(f"{explain} EXECUTE page ({arguments})")
    await connection.execute("DEALLOCATE page")
    return "\n".join(row[0] for row in rows)


async def document(database_url: str) -> str:
    """Return the text of docs/plans.md."""
    connection = await database.connect(database_url, "bench-plans")
    try:
        name = generation(await connection.fetchval("SELECT generation FROM control.live"))
        parts = [HEAD]
        for title, parameters in SHOWN.items():
            plan = await plan_of(connection, name, ListRequest(BUSY_CUSTOMER, **parameters))
            parts.append(f"## {title}\n\n```text\n{plan}\n```\n")
    finally:
        await connection.close()
    return "\n".join(parts)


def _literal(value: object) -> str:
    if isinstance(value, list):
        return "'{" + ", ".join("NULL" if element is None else str(element) for element in value) + "}'"
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, bool | int) else "'" + str(value).replace("'", "''") + "'"


if __name__ == "__main__":
    sys.stdout.write(asyncio.run(document(os.environ["MEMBERSHIP_DATABASE_URL"])))
