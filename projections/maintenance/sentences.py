"""Sentences that the command line and the console share: what an operator's action did, or what it found."""

from projections.model.events import Position


def counted(number: int, what: str) -> str:
    """Return `1 row`, `2 rows`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def differing(count: int) -> str:
    """Return how many rows differ, as the beginning of a sentence."""
    return "1 row differs" if count == 1 else f"{count:,} rows differ"


def differing_at(count: int, position: int) -> str:
    """Return how many rows a comparison found to differ."""
    return f"{differing(count)} from what this release reads in the stream, at position {position}."


def not_compared(live: str, problem: str) -> str:
    """Return that the live generation cannot be compared, and why."""
    return f"The live generation {live} cannot be compared: {problem.rstrip('.')}."


def matching(position: int) -> str:
    """Return that a verification found no difference."""
    return f"No row differs from the stream, at position {position}."


def rolled_back(to: str, was: str) -> str:
    """Return what a rollback did."""
    return f"{to} is live again. {was} still follows: another `membership rollback` returns to it."


def retried(applied: int, still_parked: int) -> str:
    """Return what a retry of parked events did."""
    return f"Applied {applied:,}, still parked {still_parked:,}."


def discarded(events: int) -> str:
    """Return what discarding parked events did."""
    pronoun = "it" if events == 1 else "them"
    return (
        f"Discarded {counted(events, 'event')}; a rebuild does not park {pronoun} again. "
        f"The stream keeps {pronoun}, the audit has the reason."
    )


def erased(messages: int, rows: int) -> str:
    """Return what an erasure did."""
    return (
        f"Erased {counted(messages, 'message')} and {counted(rows, 'row')}. Backups were not touched; "
        "an event published from now on creates the customer again."
    )


def nothing_to_erase(customer_id: str) -> str:
    """Return that a customer cannot be erased, because there is none."""
    return f"There is no customer {customer_id}: no event or row refers to it. Nothing was erased."


def nothing_differs(kind: str, entity_id: str, position: Position) -> str:
    """Return that a repair found no difference."""
    return f"Every row of {kind} {entity_id} matches the stream, at position {position}."


def repaired(rows: int, position: Position) -> str:
    """Return what a repair wrote."""
    return f"{counted(rows, 'row')} written, as of position {position}."


def would_repair(rows: int, position: Position) -> str:
    """Return what a repair would write."""
    return f"{counted(rows, 'row')} would change, as of position {position}."


def key_created(key_id: str) -> str:
    """Return what creating an API key did."""
    return f"Created {key_id}. Send the key as X-API-Key. It cannot be shown again; keep it safe."


def key_revoked(key_id: str) -> str:
    """Return what revoking an API key did."""
    return f"Revoked {key_id}. API processes refuse it within 5 seconds."


def key_was_revoked(key_id: str, revoked_at: str) -> str:
    """Return that a key was revoked before."""
    return f"{key_id} was already revoked, at {revoked_at}."


def no_such_key(key_id: str) -> str:
    """Return that no key has an id."""
    return f"There is no API key with the id {key_id!r}. `membership api-key list` shows all keys."
