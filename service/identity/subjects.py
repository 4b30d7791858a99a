"""Maps the subjects of an identity provider to user ids; producers map them in the same way to set `owner_id`."""

import re
import uuid
from typing import Final

SUBJECT_NAMESPACE: Final = uuid.UUID("fef1c570-77cd-5522-b9dc-534c96231901")
"""The namespace of subjects that are no UUIDs: `uuid5(NAMESPACE_URL, "urn:campaign-membership:subject")`. It must never
change, because owner ids in events depend on it."""
UUID_TEXT: Final = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
"""The only accepted form of a UUID; `uuid.UUID` also takes braces, `urn:`, underscores and other scripts' digits."""


def user_id(subject: str, *, map_others: bool) -> str | None:
    """Return the user id of a subject: a UUID is its own; any other text has one only if `map_others`.

    The latter is `uuid5(SUBJECT_NAMESPACE, subject)` of the subject's UTF-8 form, exactly as it is in the token.
    """
    if UUID_TEXT.fullmatch(subject):
        return subject.lower()
    if not map_others or not subject.strip() or _is_unstorable(subject):
        return None
    return str(uuid.uuid5(SUBJECT_NAMESPACE, subject))


def _is_unstorable(subject: str) -> bool:
    return any(char == "\0" or "\ud800" <= char <= "\udfff" for char in subject)
