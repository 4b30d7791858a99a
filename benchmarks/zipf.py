"""Draws as readers do: few customers often, most of them now and then (Zipf's law)."""

import itertools
import random
from collections.abc import Sequence
from typing import Final

EXPONENT: Final = 1.1
SEED: Final = 11


def drawn(customers: Sequence[str], draws: int, *, exponent: float = EXPONENT, seed: int = SEED) -> list[str]:
    """Return `draws` of the customers, the n-th of a seeded order as often as 1 / n ** exponent; the same each time."""
    chance = random.Random(seed)  # noqa: S311 - the same draw every time
    ranked = chance.sample(customers, len(customers))
    weights = itertools.accumulate(rank**-exponent for rank in range(1, len(ranked) + 1))
    return chance.choices(ranked, cum_weights=list(weights), k=draws)
