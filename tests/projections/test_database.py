"""A lost connection raises one readable error, whatever the state of the driver."""

import asyncpg
import pytest

from projections.store.database import UNAVAILABLE, closed_is_unavailable


async def test_a_lost_connection_is_reported_without_the_driver_state(connection: asyncpg.Connection) -> None:
    with pytest.raises(UNAVAILABLE, match="broke in the middle of an answer") as lost:  # noqa: SIM117
        with closed_is_unavailable(connection):
            raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")
    assert "state 12" not in str(lost.value)
    assert connection.is_closed()
