"""Prints which campaigns a customer is in, by status, and why it is in the first of them."""

import argparse
import json
import sys
from pathlib import Path

from campaign_membership_client.reading import CustomerNotFound, Reader

DEMO_CUSTOMER = "c0ffee00-0000-4000-8000-000000000001"


def main(stack: Path, customer: str) -> int:
    """Read and print."""
    if not stack.exists():
        print(f"No dev stack has written {stack}. Start `make run` in another terminal, or name its file with --stack.")
        return 2
    addresses = json.loads(stack.read_text(encoding="utf-8"))
    with Reader(addresses["api_url"], token=addresses["admin_token"]) as reader:
        try:
            first = reader.page(customer, include_aggregations=True, limit=1)
        except CustomerNotFound as problem:
            print(problem.detail)
            return 1
        counts = (first.aggregations and first.aggregations.quick_filters) or {}
        by_status = ", ".join(f"{count} {status}" for status, count in counts.items() if status != "all" and count)
        print(f"In {first.meta.total} campaigns ({by_status}), complete up to position {first.position}:")
        for campaign in reader.campaigns(customer, sort_field="name", sort_dir="asc", limit=100):
            print(f"  {campaign.status:8} {campaign.name}")
        for campaign in first.data:
            print(reader.history(customer, campaign.id).detail)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stack", type=Path, default=Path(".membership/dev.json"))
    parser.add_argument("--customer", default=DEMO_CUSTOMER)
    options = parser.parse_args()
    sys.exit(main(options.stack, options.customer))
