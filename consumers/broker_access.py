"""How the broker is reached: its URLs, TLS and the credentials that are not part of a URL.

Reads: the certificate and key files, again at every connection, so that renewed ones are used without a restart.
Fails: `TlsRefused` when TLS is required and the server offers none: nats-py would connect without it.
"""

import ssl
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import Struct
from nats.errors import AuthorizationError, UnexpectedEOF
from nats.errors import Error as NatsError

from projections import credential_files
from projections.error_text import error_text
from projections.nkeys import Nkey, read_credentials, read_seed
from projections.settings import Settings

TLS_SCHEME: Final = "tls"


class TlsRefused(NatsError):
    """The server offers no TLS, and the settings require it: nothing was sent to it."""

    def __str__(self) -> str:
        return "it offers no TLS, which a tls:// URL or a certificate file requires"


class CredentialsUnreadable(NatsError):
    """A credential file was removed or damaged after the process started."""


HANDSHAKE_ENDED: Final = (BrokenPipeError, ConnectionResetError, UnexpectedEOF)
"""How a server's refusal of a client certificate arrives: in TLS 1.3 after the client has finished the handshake."""
CONNECTION_REFUSED: Final = (ssl.SSLError, TlsRefused, AuthorizationError)
"""Errors that one side raises although both are running: an operator has to correct a setting."""


class BrokerAccess(Struct, frozen=True):
    """The settings under which a client connects; a field is empty where nothing is set."""

    urls: str
    """As in MEMBERSHIP_NATS_URL, separated by commas."""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    creds_file: str = ""
    nkey_file: str = ""

    @classmethod
    def of(cls, settings: Settings) -> "BrokerAccess":
        """Return the access that a process's settings describe."""
        return cls(
            settings.nats_url,
            settings.nats_ca_file,
            settings.nats_cert_file,
            settings.nats_key_file,
            settings.nats_creds_file,
            settings.nats_nkey_file,
        )

    @property
    def servers(self) -> list[str]:
        """The URLs, one each."""
        return [url.strip() for url in self.urls.split(",")]

    @property
    def hosts(self) -> str:
        """The hosts and ports, without user and password, for messages."""
        return ", ".join(urlsplit(url).netloc.rpartition("@")[2] for url in self.servers)

    @property
    def requires_tls(self) -> bool:
        """Whether a connection without TLS is refused."""
        return bool(self.ca_file or self.cert_file) or any(urlsplit(url).scheme == TLS_SCHEME for url in self.servers)

    def tls_context(self) -> ssl.SSLContext:
        """Return a new TLS context; raises OSError if a file is unreadable now."""
        context = ssl.create_default_context(cafile=self.ca_file or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file or None, password=lambda: "")
        return context

    def options(self) -> dict[str, Any]:
        """Return nats-py's options for the credentials."""
        if self.creds_file:
            return {"user_jwt_cb": self._jwt, "signature_cb": _reporting(lambda nonce: self._key().sign(nonce))}
        return {"signature_cb": _reporting(lambda nonce: self._key().sign(nonce))} if self.nkey_file else {}

    @property
    def public_nkey(self) -> str | None:
        """The name under which an nkey logs in; None with other credentials."""
        return self._key().public if self.nkey_file else None

    def problem(self, problem: object) -> str:
        """Return why the broker cannot be used, as a sentence without a full stop; never with a password."""
        broker = f"The broker at {self.hosts}" if self.urls else "The broker"
        if isinstance(problem, AuthorizationError) or "authorization violation" in str(problem).lower():
            return f"{broker} rejects {self._credentials}"
        if isinstance(problem, ssl.SSLCertVerificationError):
            return f"{broker} shows a certificate that is not trusted: {error_text(problem)}. {self._trusted}"
        if isinstance(problem, TlsRefused):
            return f"{broker} cannot be used: {problem}"
        if isinstance(problem, ssl.SSLError) or (self.requires_tls and isinstance(problem, HANDSHAKE_ENDED)):
            return f"{broker} ends the TLS handshake: {error_text(problem)}. {self._client_certificate}"
        return f"{broker} does not answer: {error_text(problem)}"

    @property
    def _credentials(self) -> str:
        if self.creds_file:
            return "the credentials in MEMBERSHIP_NATS_CREDS_FILE"
        if self.nkey_file:
            return "the nkey in MEMBERSHIP_NATS_NKEY_FILE"
        return "the user and password, or the token, in MEMBERSHIP_NATS_URL"

    @property
    def _trusted(self) -> str:
        cas = "MEMBERSHIP_NATS_CA_FILE" if self.ca_file else "the system (set MEMBERSHIP_NATS_CA_FILE to use others)"
        return f"It must be signed by a CA of {cas} and name the host in MEMBERSHIP_NATS_URL"

    @property
    def _client_certificate(self) -> str:
        if self.cert_file:
            return "It may not trust the client certificate in MEMBERSHIP_NATS_CERT_FILE"
        return "It may require a client certificate (MEMBERSHIP_NATS_CERT_FILE)"

    def _key(self) -> Nkey:
        if self.creds_file:
            return read_credentials(credential_files.text_of(self.creds_file)).key
        return read_seed(credential_files.text_of(self.nkey_file))

    def _jwt(self) -> bytes:
        return _reporting(lambda path: read_credentials(credential_files.text_of(path)).jwt.encode())(self.creds_file)


def _reporting(read: Callable[[str], bytes]) -> Callable[[str], bytes]:
    """Return `read` with an error that nats-py's reconnecting loop survives."""

    def reading(text: str) -> bytes:
        try:
            return read(text)
        except ValueError as problem:
            raise CredentialsUnreadable(f"a credential file {problem}") from None

    return reading
