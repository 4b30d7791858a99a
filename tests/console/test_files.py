"""The console's files: complete, of this host only, as published where they are not ours, and under a strict policy."""

import hashlib
import re
from html.parser import HTMLParser

import httpx

from service.console import FILES, FOLDER, POLICY
from tests.support.processes import System

VENDOR = FOLDER / "vendor"
PUBLISHED_SHA256 = {
    "preact.js": "bdcbd9abdf2c77c5c45326eab42191e949222d479d0d5f69467387a77040cb55",
    "preact-hooks.js": "e862ab2973aa6455eaa0f77c5d832d2157d6be59a17c8ba546550a575b58c6b4",
}
"""Of the files that were changed, as the npm packages have them."""
SOURCE_MAPS = {"preact.js": "preact.mjs.map", "preact-hooks.js": "hooks.mjs.map"}


class Page(HTMLParser):
    """Collects what the browser would fetch, and what the policy would block."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.inline: list[str] = []
        self._tag = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href"}]
        self.inline += [f"{tag} {name}" for name, _ in attrs if name.startswith("on") or name == "style"]

    def handle_endtag(self, _tag: str) -> None:
        self._tag = ""

    def handle_data(self, text: str) -> None:
        if self._tag in {"script", "style"} and text.strip():
            self.inline.append(text)


def test_the_page_loads_files_of_the_fixed_list_and_has_nothing_inline() -> None:
    page = Page()
    page.feed((FOLDER / "console.html").read_text(encoding="utf-8"))
    names = [path.removeprefix("/console/assets/") for path in page.fetched]
    assert page.inline == []
    assert len(names) > 5
    assert set(names) <= FILES.keys()


def test_every_import_names_a_file_of_the_fixed_list() -> None:
    for path in FOLDER.rglob("*.js"):
        for target in re.findall(r'(?:from|import) ?"([^"]+)"', path.read_text(encoding="utf-8")):
            assert target.startswith("."), (path.name, target)
            assert (path.parent / target).resolve().relative_to(FOLDER).as_posix() in FILES, (path.name, target)


def test_our_own_files_reference_no_other_host() -> None:
    ours = [
        path for path in FOLDER.rglob("*") if path.suffix in {".js", ".css", ".html"} and VENDOR not in path.parents
    ]
    assert len(ours) > 30
    for path in ours:
        assert not re.search(r"https?://", path.read_text(encoding="utf-8")), path.name


def test_vendored_files_have_the_hashes_that_version_names() -> None:
    text = (VENDOR / "VERSION").read_text(encoding="utf-8")
    named = dict(re.findall(r"^sha256 +([0-9a-f]{64})  (\S+)$", text, re.MULTILINE))
    found = {
        hashlib.sha256(path.read_bytes()).hexdigest(): path.name for path in VENDOR.iterdir() if path.name != "VERSION"
    }
    assert found == named


def test_changed_vendored_files_are_as_published_without_the_change() -> None:
    for name, digest in PUBLISHED_SHA256.items():
        text = (VENDOR / name).read_text(encoding="utf-8").replace('from"./preact.js"', 'from"preact"')
        original = f"{text}//# sourceMappingURL={SOURCE_MAPS[name]}\n"
        assert hashlib.sha256(original.encode()).hexdigest() == digest, name


async def test_the_page_and_its_files_have_the_strict_policy(system: System) -> None:
    async with httpx.AsyncClient(base_url=system.api_url) as client:
        for path in ("/console", "/console/assets/main.js", "/console/assets/css/base.css"):
            reply = await client.get(path)
            assert reply.status_code == 200
            assert reply.headers["content-security-policy"] == POLICY
            assert "'unsafe" not in POLICY
            again = await client.get(path, headers={"If-None-Match": reply.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")


async def test_no_path_from_a_caller_reaches_the_disk(system: System) -> None:
    for name in ("%00", "..%2f..%2fapp.py", "../app.py", "nothing.js", "%ff", "/etc/passwd"):
        assert (await system.get(f"/console/assets/{name}")).status_code == 404, name
    assert (await system.get("/docs/assets/console/main.js")).status_code == 404
