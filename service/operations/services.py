"""What the endpoints of the operators' API use; the application creates one of each per process."""

import asyncio

from msgspec import Struct

from projections.store.database import SessionPool
from service.auth import Authenticator
from service.freshness import Freshness
from service.operations.live_feed import LiveFeed
from service.operations.statistics import ReadStatistics
from service.operations.stream_access import StreamAccess
from service.page_reader import PageReader


class OperationsServices(Struct, frozen=True):
    """The objects that endpoints use."""

    authenticator: Authenticator
    database: SessionPool
    freshness: Freshness
    stream: StreamAccess
    statistics: ReadStatistics
    pages: PageReader
    live: LiveFeed
    ending: asyncio.Event
    """Set when the process stops answering soon."""
    answer_within_s: float
    """From a request's arrival to its answer."""
