"""Every shape of the page statement, so that tests of statements miss none."""

import itertools
from collections.abc import Iterable

from service.parameters import SortField
from service.read_model.reads import SORT_KEYS, Shape


def every_shape(fields: Iterable[SortField] = tuple(SORT_KEYS)) -> list[Shape]:
    """Return the shapes of these orders: every combination of flags that the service can ask for."""
    shapes = [
        Shape(field, direction, *flags)
        for field in fields
        for direction in ("asc", "desc")
        for flags in itertools.product((False, True), repeat=7)
    ]
    return shapes + [shape._replace(keys_only=True) for shape in shapes if not (shape.positioned or shape.large)]
