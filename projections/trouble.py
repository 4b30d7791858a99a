"""Tells of a trouble once, not at every retry: what waits for a database or a broker tries again many times."""

from collections.abc import Callable

import structlog

from projections.error_text import error_text

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Trouble:
    """What one waiter has told so far."""

    def __init__(self) -> None:
        self._told = ""

    def over(self) -> None:
        """Forget what was told: the same trouble next week is news."""
        self._told = ""

    def tell(self, event: str, problem: BaseException | str) -> None:
        """Log `problem` under `event`, unless it is what was told last."""
        if sentence := self._news(problem):
            log.warning(event, detail=sentence)

    def tell_by(self, say: Callable[[str], None], event: str, problem: BaseException | str) -> None:
        """Say the same to a person."""
        if sentence := self._news(problem):
            say(f"{event}: {sentence}")

    def _news(self, problem: BaseException | str) -> str:
        sentence = error_text(problem)
        told, self._told = self._told, sentence
        return sentence if sentence != told else ""
