"""All endpoints of the operators' API, in the order of the documentation."""

from itertools import chain
from typing import Final

from service.operations import audit, campaigns, customers, jobs, keys, live, overview, parked, plans, session, stream
from service.operations.endpoint import Endpoint

MODULES: Final = (session, overview, live, jobs, parked, plans, customers, campaigns, audit, stream, keys)
ENDPOINTS: Final[tuple[Endpoint, ...]] = tuple(chain.from_iterable(module.ENDPOINTS for module in MODULES))
