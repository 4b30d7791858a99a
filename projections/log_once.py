"""Tells of a trouble once, not at every retry: what waits for a database or a broker tries again many times."""

from collections.abc import Callable

import structlog

from projections.error_text import error_text

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class LogOnce:
    """What one waiter has told so far."""

    def __init__(self) -> None:
        self._last = ""

    def reset(self) -> None:
        """Forget what was told: the same trouble next week is news."""
        self._last = ""

    def warning(self, event: str, problem: BaseException | str) -> None:
        """Log `problem` under `event`, unless it is what was told last."""
        if sentence := self._if_changed(problem):
            log.warning(event, detail=sentence)

    def report_by(self, say: Callable[[str], None], event: str, problem: BaseException | str) -> None:
        """Say the same to a person."""
        if sentence := self._if_changed(problem):
            say(f"{event}: {sentence}")

    def _if_changed(self, problem: BaseException | str) -> str:
        sentence = error_text(problem)
        told, self._last = self._last, sentence
        return sentence if sentence != told else ""
