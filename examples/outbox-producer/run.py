"""Runs the CRM against a dev stack: changes, the relay, the initial load, and the answer that a reader gets."""

import argparse
import asyncio
import json
import uuid
from pathlib import Path

import asyncpg
from crm import Crm, create_tables, event_of

from campaign_membership_client import Publisher, now_us
from campaign_membership_client.reading import AsyncReader
from campaign_membership_client.relay import Relay, backlog
from campaign_membership_client.table_load import publish_table


async def main(addresses: dict[str, str]) -> None:
    """Do what a producer does, once."""
    database_url = await own_database(addresses["database_url"])
    connection = await asyncpg.connect(database_url)
    await create_tables(connection)
    campaigns = [uuid.uuid4() for _ in range(3)]
    owner, customer = uuid.uuid4(), uuid.uuid4()

    async with Publisher(addresses["nats_url"], source="crm") as publisher:
        await publish_campaigns(publisher, owner, campaigns)
        crm = Crm(publisher)
        for campaign in campaigns:
            await crm.join(connection, customer, campaign)
        await crm.leave(connection, customer, campaigns[0])
        print(f"{(await backlog(connection)).waiting} events wait in the outbox.")

        published = await Relay(database_url, publisher).run_until_empty()
        print(f"The relay published {published}; {(await backlog(connection)).waiting} wait.")

        loaded = await publish_table(publisher, connection, "SELECT * FROM enrolment", event=event_of)
        print(f"A load of the whole table up to position {loaded.position} changes nothing: versions decide.")

    async with AsyncReader(addresses["api_url"], token=addresses["admin_token"]) as reader:
        page = await reader.page(customer, min_position=loaded.position, wait_s=10, sort_field="name", sort_dir="asc")
        print(f"The customer is in {page.meta.total} campaigns: {', '.join(campaign.name for campaign in page.data)}.")
        history = await reader.history(customer, campaigns[0])
        print(history.detail)
    await connection.close()


async def own_database(server_url: str) -> str:
    """Create the CRM's own database on the stack's server; the CRM never touches the tables of the read model."""
    connection = await asyncpg.connect(server_url)
    if not await connection.fetchval("SELECT count(*) FROM pg_database WHERE datname = 'crm'"):
        await connection.execute("CREATE DATABASE crm")
    await connection.close()
    return f"{server_url.rpartition('/')[0]}/crm"


async def publish_campaigns(publisher: Publisher, owner: uuid.UUID, campaigns: list[uuid.UUID]) -> None:
    """Publish what another service of the platform would: the campaigns."""
    for number, campaign in enumerate(campaigns, start=1):
        await publisher.campaign_upserted(
            campaign,
            owner,
            version=now_us(),
            name=f"Example {number}",
            status="running",
            agent_id=owner,
            first_contact_channel="call",
            whatsapp_after_attempts=2,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stack", type=Path, default=Path(".membership/dev.json"))
    asyncio.run(main(json.loads(parser.parse_args().stack.read_text(encoding="utf-8"))))
