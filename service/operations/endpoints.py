"""All endpoints of the operators' API, in the order of the documentation."""

from typing import Final

from service.operations import overview, session
from service.operations.endpoint import Endpoint

ENDPOINTS: Final[tuple[Endpoint, ...]] = (*session.ENDPOINTS, *overview.ENDPOINTS)
