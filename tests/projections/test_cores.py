"""The number of cores that a process may use, and the number of workers derived from it."""

import os
from pathlib import Path

import pytest

from projections import cores
from projections.settings import WORKERS_MAX, worker_count


@pytest.mark.parametrize(
    ("limit", "expected"), [("50000 100000", 1), ("100000 100000", 1), ("max 100000", None), ("6400000 100000", None)]
)
def test_the_limit_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, expected: int | None
) -> None:
    monkeypatch.setattr(cores, "CPU_LIMIT", tmp_path / "cpu.max")
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    present = len(os.sched_getaffinity(0))
    assert cores.cores() == min(present, expected or present)
    assert worker_count("auto") == min(cores.cores(), WORKERS_MAX)


def test_without_a_container_all_cores_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "CPU_LIMIT", tmp_path / "missing")
    assert cores.cores() == len(os.sched_getaffinity(0))
