"""Reads which campaigns a customer is in, and why; needs httpx (the extra `reader`)."""

from campaign_membership_client.reading.answers import HistoryPage, Page
from campaign_membership_client.reading.errors import (
    CustomerNotFound,
    InsufficientScope,
    InternalError,
    InvalidParameters,
    MembershipNotFound,
    ParameterError,
    PositionNotReached,
    Problem,
    RateLimited,
    ReadError,
    RequestRefused,
    ServiceUnavailable,
    Unauthenticated,
    UnexpectedAnswer,
    Unreachable,
)
from campaign_membership_client.reading.exchange import Retry
from campaign_membership_client.reading.models import Aggregations, Campaign, HistoryEvent, Meta, Query, Sort, Stage
from campaign_membership_client.reading.readers import AsyncReader, Reader
from campaign_membership_client.reading.requests import Filters

__all__ = [
    "Aggregations",
    "AsyncReader",
    "Campaign",
    "CustomerNotFound",
    "Filters",
    "HistoryEvent",
    "HistoryPage",
    "InsufficientScope",
    "InternalError",
    "InvalidParameters",
    "MembershipNotFound",
    "Meta",
    "Page",
    "ParameterError",
    "PositionNotReached",
    "Problem",
    "Query",
    "RateLimited",
    "ReadError",
    "Reader",
    "RequestRefused",
    "Retry",
    "ServiceUnavailable",
    "Sort",
    "Stage",
    "Unauthenticated",
    "UnexpectedAnswer",
    "Unreachable",
]
