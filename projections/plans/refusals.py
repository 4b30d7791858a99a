"""Why a plan is not made or not run; each message is a sentence for the operator.

PlanRefused
├── PlanInvalid          plan_invalid
├── NothingToPlan        nothing_to_plan
├── PlanUnknown          plan_not_found
├── PlanChanged          plan_changed
├── PlanExpired          plan_expired
├── PlanAlreadyRun       plan_already_run
├── PlanNotReady         plan_not_ready
├── ReasonMissing        reason_missing
├── WordWrong            confirm_wrong
├── BeyondCaller         beyond_caller
└── RunnerUnavailable    runner_unavailable
"""

from projections.errors import MembershipError


class PlanRefused(MembershipError):
    """A plan is not made or not run."""

    code = "plan_refused"


class PlanInvalid(PlanRefused):
    """The parameters make no sense."""

    code = "plan_invalid"


class NothingToPlan(PlanRefused):
    """The action would do nothing, or cannot be done now."""

    code = "nothing_to_plan"


class PlanUnknown(PlanRefused):
    """There is no such plan."""

    code = "plan_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such plan.")


class PlanChanged(PlanRefused):
    """What the plan acts on is not what it was when the plan was made."""

    code = "plan_changed"

    def __init__(self, planned: int, current: int, unit: str, because: str = "") -> None:
        self.planned = planned
        self.current = current
        counts = f"{planned:,} then, {current:,} now" if planned != current else f"still {current:,}, but not the same"
        super().__init__(
            f"What this plan acts on has changed since it was made ({unit}s: {counts}). Nothing was changed; "
            f"make a new plan. {because}".rstrip()
        )


class PlanExpired(PlanRefused):
    """The plan is too old."""

    code = "plan_expired"

    def __init__(self) -> None:
        super().__init__("This plan has expired. Nothing was changed; make a new plan.")


class PlanAlreadyRun(PlanRefused):
    """The plan was run before: it is queued, running, or has ended."""

    code = "plan_already_run"

    def __init__(self) -> None:
        super().__init__("This plan was run before; a plan runs once. Make a new plan to do it again.")


class PlanNotReady(PlanRefused):
    """The job runner has not described the plan yet, or could not."""

    code = "plan_not_ready"

    def __init__(self) -> None:
        super().__init__("This plan cannot be run: what it would do is not known yet, or could not be determined.")


class ReasonMissing(PlanRefused):
    """The reason is missing, too long, or names a customer."""

    code = "reason_missing"


class WordWrong(PlanRefused):
    """The word to type is missing or wrong."""

    code = "confirm_wrong"

    def __init__(self, word: str) -> None:
        super().__init__(f'Type "{word}" to confirm. Nothing was changed.')


class BeyondCaller(PlanRefused):
    """The caller may not give what it does not have."""

    code = "beyond_caller"

    def __init__(self) -> None:
        super().__init__(
            "Credentials that are no admin's create and revoke keys of their own user only, with their own scopes, "
            "that expire no later than they do, and none of an admin."
        )


class RunnerUnavailable(PlanRefused):
    """No job runner is alive to execute the plan."""

    code = "runner_unavailable"

    def __init__(self) -> None:
        super().__init__(
            "No job runner is running, so nothing was started. Start `membership jobs run`, then run the plan again."
        )
