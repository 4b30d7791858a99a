"""The documentation site: built from the pages as they are, without a broken link, and without any other host."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILT = ROOT / ".build" / "site"
LOADED = re.compile(r"<(?:link|script|img|iframe)\b[^>]*?\b(?:src|href)=\"((?:https?:)?//[^\"]+)")
"""What a browser fetches without a click."""


@pytest.fixture(scope="module", autouse=True)
def site() -> None:
    make = ["make", "--silent", "docs"]
    subprocess.run(make, cwd=ROOT, check=True, timeout=300, capture_output=True)  # noqa: S603 - our own Makefile


def test_every_page_of_the_documentation_is_on_the_site() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    assert len(pages) > 40
    for page in pages:
        assert (BUILT / page.relative_to(ROOT).with_suffix(".html")).is_file(), page


def test_the_site_loads_nothing_from_other_hosts() -> None:
    pages = {path: path.read_text(encoding="utf-8") for path in BUILT.rglob("*.html")}
    assert {url for text in pages.values() for url in LOADED.findall(text)} == set()
    styles = [path.read_text(encoding="utf-8") for path in BUILT.rglob("*.css")]
    assert [style for style in styles if re.search(r"url\([\"']?(?:https?:)?//|@import", style)] == []
    assert "@font-face" not in "".join(styles)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[a page](missing.md)", "'missing.md'"),
        ("[a heading](api.md#missing)", "'missing'"),
        ("[a file](../Missingfile)", "'../Missingfile'"),
        ("```{toctree}\n```\n[fine](api.md)", "isn't included in any toctree"),
    ],
    ids=["page", "heading", "file", "page outside the navigation"],
)
def test_a_broken_link_or_a_lost_page_fails_the_build(line: str, problem: str, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    (docs / "site").mkdir(parents=True)
    for name in ("conf.py", "api.md", "slo.md"):
        shutil.copy(ROOT / "docs" / name, docs / name)
    (docs / "api.md").write_text("# The API\n", encoding="utf-8")
    (docs / "slo.md").write_text("# Objectives\n", encoding="utf-8")
    listed = "" if "toctree" in problem else "\n- [objectives](slo.md)"
    (docs / "README.md").write_text(f"# Pages\n\n- [api](api.md){listed}\n\n{line}\n", encoding="utf-8")
    build = [str(ROOT / ".build/docs/bin/python"), "-m", "sphinx", "-qW", "--keep-going", "-c", "docs", ".", "out"]
    built = subprocess.run(  # noqa: S603 - our own pages
        build, cwd=tmp_path, check=False, timeout=120, capture_output=True, text=True
    )
    assert built.returncode == 1
    assert problem in built.stderr
