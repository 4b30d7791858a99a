"""The /docs page: complete, served from this host only, under a strict content security policy."""

import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

from service import openapi
from tests.support.processes import System

STATIC = Path(openapi.__file__).parent / "static"
ASSETS = "/docs/assets/"

# As published in swagger-ui-dist 5.35.0, except for the style sheet's last line: see VERSION there.
VENDORED_SHA256 = {
    "LICENSE": "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
    "NOTICE": "0d20d1adef18aee3f40dd258172155521ce702ac445cb5f7b7d60ed32dad2fb2",
    "favicon-32x32.png": "3ed612f41e050ca5e7000cad6f1cbe7e7da39f65fca99c02e99e6591056e5837",
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui-bundle.js.LICENSE.txt": "37eb6e7e59aed57b2c1acf076574b818ea07b74265717e0bd67b59e0baf9abbb",
    "swagger-ui.css": "a6a4cf68f069eb89984d5d43644e6a812e749df08d2b1320c6e06e6973847d10",
}


class Page(HTMLParser):
    """Collects the URLs that a browser would fetch and the inline scripts that the policy would block."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.inline: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_script = tag == "script"
        for name, value in attrs:
            if name in {"src", "href"} and tag != "a":
                self.fetched.append(value or "")
            if name.startswith("on"):
                self.inline.append(f"{tag} {name}")

    def handle_endtag(self, _tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script and data.strip():
            self.inline.append(data)


def read_page() -> Page:
    page = Page()
    page.feed((STATIC / "docs.html").read_text(encoding="utf-8"))
    return page


def test_the_page_fetches_only_files_of_this_repository() -> None:
    fetched = read_page().fetched

    assert len(fetched) == 5
    assert [path for path in fetched if not path.startswith(ASSETS)] == []
    assert [path for path in fetched if not (STATIC / path.removeprefix(ASSETS)).is_file()] == []


def test_the_page_has_no_inline_script() -> None:
    assert read_page().inline == []


def test_our_own_files_reference_no_other_host() -> None:
    for name in ("docs.html", "docs.css", "docs.js"):
        assert not re.search(r"//\S", (STATIC / name).read_text(encoding="utf-8")), name


def test_vendored_files_match_the_release_and_reference_no_source_maps() -> None:
    folder = STATIC / "vendor" / "swagger-ui"
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "VERSION"}

    assert {name: hashlib.sha256(content).hexdigest() for name, content in files.items()} == VENDORED_SHA256
    assert [name for name, content in files.items() if b"sourceMappingURL=" in content] == []


async def test_no_path_from_a_caller_reaches_the_disk(system: System) -> None:
    for name in ("%00", "..%2f..%2fapp.py", "../app.py", "nothing.js", "%ff"):
        assert (await system.get(f"/docs/assets/{name}")).status_code == 404, name
    assert (await system.get("/docs/assets/docs.js")).headers["content-type"].startswith("text/javascript")
