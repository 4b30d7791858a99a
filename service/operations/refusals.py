"""How an endpoint refuses a request: with a problem, or with the violations of a 422."""

from typing import Any

from service.parameters import Violation
from service.problems import PROBLEMS


class Refused(Exception):
    """The request is valid but cannot be answered; becomes the problem of this code."""

    def __init__(self, code: str, detail: str | None = None, **members: Any) -> None:  # noqa: ANN401 - any JSON
        super().__init__(code)
        self.code = code
        self.detail = detail
        """A sentence for this case; None: the problem's own."""
        self.members = members
        """Further members of the problem's body (RFC 9457, 3.2)."""

    @property
    def sentence(self) -> str:
        """The sentence that the caller is shown."""
        return self.detail or PROBLEMS[self.code].detail


class InvalidRequest(Exception):
    """Parameters or content are invalid; becomes a 422."""

    def __init__(self, *violations: Violation) -> None:
        super().__init__(*violations)
        self.violations = violations
