"""The throttle's probe does little work itself, whatever the size of the tables."""

import asyncpg

from ops.rebuild.probe import SAMPLE, SAMPLE_CUSTOMERS, _sample
from projections.store.queries import Generation, for_generation

CUSTOMERS = 20_000
G1 = Generation("g1")


async def test_a_sample_of_customers_is_an_index_scan(connection: asyncpg.Connection) -> None:
    await connection.execute(
        "INSERT INTO g1.customer (customer_id) SELECT gen_random_uuid() FROM generate_series(1, $1::int)", CUSTOMERS
    )
    await connection.execute("ANALYZE g1.customer")
    plan = await connection.fetch("EXPLAIN " + for_generation(SAMPLE_CUSTOMERS, G1).replace("$1", str(SAMPLE)))
    text = "\n".join(row[0] for row in plan)
    assert "customer_pkey" in text, text
    assert "Index Cond: (customer_id >= (InitPlan" in text.replace("$0", "(InitPlan 1).col1"), text
    assert "Sort" not in text, text
    assert "Seq Scan" not in text, text
    sample = await _sample(connection, G1)
    assert sample == sorted(sample)
