"""A local identity provider: signs tokens, and serves its key set over real HTTP, also in every wrong way."""

import gzip
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from joserfc import jwt
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from tests.support.builders import owner_id

Mode = Literal["ok", "500", "slow", "huge", "endless", "not json", "no keys", "redirect", "compressed", "closed"]
SLOW_S = 30.0
ELSEWHERE = "/elsewhere"
"""Where the key set is as well, for redirects to it."""

RSA_KEY = RSAKey.generate_key(2048)
KEYS: dict[str, Key] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), RSA_KEY),
    "ES256": ECKey.generate_key("P-256"),
    "ES384": ECKey.generate_key("P-384"),
    "ES512": ECKey.generate_key("P-521"),
    "EdDSA": OKPKey.generate_key("Ed25519"),
    "Ed25519": OKPKey.generate_key("Ed25519"),
}
"""A key for each algorithm; RSA keys take long to generate, so there is one."""


class _AnyAlgorithm(JWSRegistry):
    """Signs with any algorithm and header, without joserfc's warnings."""

    max_header_length = 8_192

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name]

    def check_header(self, header: Any) -> None:
        """Sign hostile headers too."""


def signed(key: Key, header: dict[str, Any], **claims: Any) -> str:
    """Return an admin's token, valid unless an argument makes it invalid."""
    whole = {"sub": owner_id(1), "role": "admin", "exp": int(time.time()) + 3600} | claims
    return jwt.encode(header, whole, key, registry=_AnyAlgorithm())


def public(key: Key, kid: str | None = None, **members: Any) -> dict[str, Any]:
    """Return the entry of a key in a key set."""
    entry: dict[str, Any] = {**key.as_dict(private=False), **members}
    return {name: value for name, value in entry.items() if name != "kid"} | ({} if kid is None else {"kid": kid})


class Issuer:
    """Publishes `keys`, as `mode` says, and counts how often it was asked."""

    def __init__(self, server: ThreadingHTTPServer, scheme: str) -> None:
        self.url = f"{scheme}://127.0.0.1:{server.server_port}/jwks.json"
        self.keys: list[dict[str, Any]] = []
        self.mode: Mode = "ok"
        self.paths: list[str] = []
        """The paths requested, in order."""
        self.stopping = threading.Event()

    @property
    def fetches(self) -> int:
        """How many requests have arrived."""
        return len(self.paths)

    def respond(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        self.paths.append(request.path)
        mode = "ok" if request.path == ELSEWHERE else self.mode
        if mode == "slow":
            self.stopping.wait(SLOW_S)
        if mode == "closed":
            request.connection.close()
        elif mode == "endless":
            self._stream_without_end(request)
        else:
            _send(request, *self._response(mode))

    def _response(self, mode: Mode) -> tuple[int, bytes, dict[str, str]]:
        """Return status, body and headers."""
        document = json.dumps({"keys": self.keys}).encode()
        wrong: dict[Mode, tuple[int, bytes, dict[str, str]]] = {
            "500": (500, b"broken", {}),
            "huge": (200, document[:-1] + b',"padding":"' + b"x" * 1_000_000 + b'"}', {}),
            "not json": (200, b"<html>log in</html>", {}),
            "no keys": (200, b'{"keys": []}', {}),
            "redirect": (302, b"", {"Location": ELSEWHERE}),
            "compressed": (200, gzip.compress(document), {"Content-Encoding": "gzip"}),
        }
        return wrong.get(mode, (200, document, {}))

    def _stream_without_end(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while not self.stopping.is_set():
            request.wfile.write(b" " * 65_536)


def _send(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
    request.send_response(status)
    for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


@contextmanager
def running_issuer(port: int = 0, certificate: tuple[str, str] | None = None) -> Iterator[Issuer]:
    """Run an issuer, over TLS if a certificate and its key (files) are given."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                issuer.respond(self)
            except OSError:
                self.close_connection = True  # the client has gone, as it should after its limit

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the overridden method's name
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    issuer = Issuer(server, "http" if certificate is None else "https")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield issuer
    finally:
        issuer.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
