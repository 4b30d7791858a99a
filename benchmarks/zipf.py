"""Draws customers by Zipf's law: a few often, most of them rarely."""

import itertools
import random
from collections.abc import Sequence
from typing import Final

EXPONENT: Final = 1.1
SEED: Final = 11


def drawn(customers: Sequence[str], draws: int, *, exponent: float = EXPONENT, seed: int = SEED) -> list[str]:
    """Return `draws` customers, the n-th of a seeded order with weight 1 / n ** exponent; the same on every call."""
    chance = random.Random(seed)  # noqa: S311 - the same draw every time
    ranked = chance.sample(customers, len(customers))
    weights = itertools.accumulate(rank**-exponent for rank in range(1, len(ranked) + 1))
    return chance.choices(ranked, cum_weights=list(weights), k=draws)
