"""The operator's console: a page without data, and its files from a fixed list.

Reads: static/console, once, at import.
Invariants: no path of a caller reaches the disk; the page may load from, and connect to, this host only.
"""

import hashlib
from pathlib import Path
from typing import Any, Final, NamedTuple

from litestar import Request, Response, get
from litestar.params import FromPath
from litestar.status_codes import HTTP_304_NOT_MODIFIED

from service.problems import problem_response

FOLDER: Final = Path(__file__).parent / "static" / "console"
PAGE: Final = "console.html"
MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Other files, such as licences, are text."""
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class File(NamedTuple):
    """A file as it is sent."""

    content: bytes
    media_type: str
    tag: str


def _read(path: Path) -> File:
    content = path.read_bytes()
    media_type = MEDIA_TYPES.get(path.suffix, "text/plain; charset=utf-8")
    return File(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')


FILES: Final = {path.relative_to(FOLDER).as_posix(): _read(path) for path in FOLDER.rglob("*") if path.is_file()}

AnyRequest = Request[Any, Any, Any]


def _respond(request: AnyRequest, file: File) -> Response[bytes]:
    """Return a file, or 304 to a browser that has it: the modules are asked for at each load of the page."""
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "ETag": file.tag}
    if request.headers.get("if-none-match") == file.tag:
        return Response(b"", status_code=HTTP_304_NOT_MODIFIED, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)


@get("/console")
async def console(request: AnyRequest) -> Response[bytes]:
    """Serve the console's page, which holds no data: a browser's navigation carries no credential."""
    return _respond(request, FILES[PAGE])


@get("/console/assets/{name:path}")
async def console_asset(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    """Serve a file of the console."""
    file = FILES.get(name.lstrip("/"))
    return problem_response("route_not_found") if file is None else _respond(request, file)


HANDLERS: Final = (console, console_asset)
