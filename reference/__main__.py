"""`python -m reference` writes the generated pages into docs/."""

from pathlib import Path
from typing import Final

from reference import commands_page, python_page

DOCS: Final = Path(__file__).parent.parent / "docs"


def pages() -> dict[str, str]:
    """Return the text of each generated page by its name."""
    return {"commands.md": commands_page.page(), "python.md": python_page.page()}


def main() -> None:
    """Write the pages."""
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
