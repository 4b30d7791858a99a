"""Reports a problem once, not at every retry: waiting for a database or a broker takes many attempts."""

from collections.abc import Callable

import structlog

from projections.error_text import error_text

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class LogOnce:
    """Remembers the last problem that one retry loop reported."""

    def __init__(self) -> None:
        self._last = ""

    def reset(self) -> None:
        """Forget the last problem, so that a recurrence is reported again."""
        self._last = ""

    def warning(self, event: str, problem: BaseException | str) -> None:
        """Log `problem` under `event`, unless it is the one reported last."""
        if sentence := self._if_changed(problem):
            log.warning(event, detail=sentence)

    def report_by(self, write: Callable[[str], None], event: str, problem: BaseException | str) -> None:
        """Do the same through `write`, for an operator at a terminal."""
        if sentence := self._if_changed(problem):
            write(f"{event}: {sentence}")

    def _if_changed(self, problem: BaseException | str) -> str:
        sentence = error_text(problem)
        previous, self._last = self._last, sentence
        return sentence if sentence != previous else ""
