"""Why a request's credentials are refused: a closed list, so that no answer repeats anything a caller has sent."""

from enum import Enum
from typing import Final


class Refusal(Enum):
    """A reason; its value is the sentence for the caller, in the characters of an `error_description` (RFC 6750, 3)."""

    NO_CREDENTIALS = "Send a valid bearer token or a valid X-API-Key."
    SEVERAL_CREDENTIALS = "Send at most one Authorization and at most one X-API-Key."
    TOO_LONG = "The credential is longer than this server accepts."
    CREDENTIALS_DISAGREE = (
        "The bearer token and the API key belong to different users, or only one of them to an admin."
    )
    TOKEN_MALFORMED = "The token is not a signed JWT."  # noqa: S105 - a sentence
    HEADER_REFUSED = "The token's header contains crit, b64, jku, jwk, x5c or x5u, which are refused."
    ALGORITHM_REFUSED = "The token's algorithm is not accepted, or not with its key."
    KEY_UNKNOWN = "No key of the issuer fits the token: its kid is unknown, or absent while several keys fit."
    SIGNATURE_INVALID = "The token's signature is not valid."
    EXPIRY_MISSING = "The token has no exp, or one that is not a number."
    TOKEN_EXPIRED = "The token has expired."  # noqa: S105 - a sentence
    NOT_YET_VALID = "The token is not valid yet: its nbf is in the future, or not a number."
    ISSUER_REFUSED = "The token's iss is not an accepted issuer."
    AUDIENCE_REFUSED = "The token's aud does not contain this service's audience."
    NO_USER_ID = "The token's user claim is missing or not a user id."
    API_KEY_MALFORMED = "The API key is malformed or mistyped."
    API_KEY_UNKNOWN = "The API key is unknown."
    API_KEY_REVOKED = "The API key was revoked."
    API_KEY_EXPIRED = "The API key has expired."

    @property
    def code(self) -> str:
        """The short form for logs and metrics."""
        return self.name.lower()


REALM: Final = 'Bearer realm="membership"'


class Unauthenticated(Exception):
    """The credentials are missing, invalid, or name two different principals."""

    def __init__(self, refusal: Refusal = Refusal.NO_CREDENTIALS) -> None:
        self.refusal = refusal
        super().__init__(refusal.code)

    @property
    def challenge(self) -> str:
        """The value of `WWW-Authenticate`. Without credentials it contains no error (RFC 6750, 3.1)."""
        if self.refusal is Refusal.NO_CREDENTIALS:
            return REALM
        return f'{REALM}, error="invalid_token", error_description="{self.refusal.value}"'


class ScopeMissing(Exception):
    """The credentials are valid, but none of their scopes allows the request."""

    def __init__(self, scope: str) -> None:
        self.scope = scope
        super().__init__(scope)

    @property
    def challenge(self) -> str:
        """The value of `WWW-Authenticate`."""
        return f'{REALM}, error="insufficient_scope", scope="{self.scope}"'


class IdentityProviderUnavailable(Exception):
    """A token cannot be judged: its key may be among those that were never read, or not for too long."""
