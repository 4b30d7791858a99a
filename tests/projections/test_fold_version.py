"""The fold's version increases whenever the code that derives rows from events changes."""

import hashlib
from importlib import resources

from projections.fold_version import FOLD_VERSION
from projections.store.queries import blocks
from tests.support import code_digest

RECORD = resources.files("tests.projections").joinpath("fold_version.txt")
ROOTS = (
    ("projections.model.decode", "decode"),
    ("projections.model.membership", "fold"),
    ("projections.model.batch", "BatchBuilder"),
    ("projections.store.projector", "write_registers"),
    ("projections.store.projector", "park"),
    ("projections.maintenance.rebuild", "fill"),
    ("projections.maintenance.rebuild", "steps_left"),
)
"""The entry points of the fold; everything that they reference counts too."""
STATEMENTS = (
    ("projections.store", "generation.sql"),
    ("projections.store", "writes.sql"),
    ("projections.maintenance", "rebuild.sql"),
)


def fold_digest() -> str:
    texts = [" ".join(text.split()) for where in STATEMENTS for text in blocks(*where).values()]
    parts = [*(code_digest.digest_of(*root) for root in ROOTS), *sorted(texts)]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


def test_the_fold_changes_only_together_with_its_version() -> None:
    recorded = RECORD.read_text(encoding="ascii").split()
    digest = fold_digest()

    assert recorded == [FOLD_VERSION, digest], (
        f"The fold's code digests to {digest}, and tests/projections/fold_version.txt holds {recorded}. If rows may "
        f"differ, increase FOLD_VERSION in projections/fold_version.py: an open rebuild then starts over. Then record "
        f"'{FOLD_VERSION} {digest}' in that file."
    )
