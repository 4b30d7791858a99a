"""Tells of a trouble once, not at every retry: what waits for a database or a broker tries again many times."""

import structlog

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
        sentence = str(problem) or type(problem).__name__
        if sentence != self._told:
            log.warning(event, detail=sentence)
        self._told = sentence
