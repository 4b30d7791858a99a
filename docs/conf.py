"""Builds the documentation site from the pages as they lie in the repository, with strict links and without network."""

import re
from typing import Final

from sphinx.application import Sphinx

project = "Campaign Membership"
extensions = ["myst_parser"]
root_doc = "docs/README"
include_patterns = [
    "*.md",
    "docs/**",
    "tests/README.md",
    "client/README.md",
    "contracts/typescript/README.md",
    "examples/*/README.md",
]
exclude_patterns = [".*", "**/node_modules", "dist"]
html_theme = "furo"
html_title = project
html_extra_path = ["site"]
html_show_sphinx = False
nitpicky = True
myst_heading_anchors = 4

INDEXES: Final = frozenset(("docs/README", "docs/decisions/README"))
"""The pages whose links are the site's navigation, a group for each heading. On a code host they are ordinary lists."""

_LINK: Final = re.compile(r"\]\((?!https?:)([^)#]+)\.md\)")


def add_navigation(_app: Sphinx, docname: str, source: list[str]) -> None:
    """Append the index's links to other pages as hidden tables of contents."""
    if docname not in INDEXES:
        return
    _, *sections = re.split(r"^## ", f"## \n{source[0]}", flags=re.MULTILINE)
    listed: set[str] = set()
    source[0] += "".join(_toctree(*section.split("\n", 1), listed) for section in sections)


def _toctree(caption: str, text: str, listed: set[str]) -> str:
    """Return the table of contents of a section; a page belongs to the first section that links to it."""
    pages = [page for page in dict.fromkeys(_LINK.findall(text)) if page not in listed]
    listed.update(pages)
    options = [":hidden:", *([f":caption: {caption}"] if caption else [])]
    return "\n".join(["", "```{toctree}", *options, "", *pages, "```", ""]) if pages else ""


def setup(app: Sphinx) -> None:
    """Register the navigation; called by Sphinx."""
    app.connect("source-read", add_navigation)
