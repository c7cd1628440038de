"""README and docs: nothing is left to fill in, and every local link leads somewhere."""

import re
from pathlib import Path

import pytest
from support import ROOT

ROOTS = ("README.md", "CHANGELOG.md", "migrations/README.md")
PAGES = [*(ROOT / name for name in ROOTS), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    assert "@@" not in text and "TODO" not in text
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    local = [link for link in links if not link.startswith("http")]
    assert [link for link in local if not (page.parent / link).exists()] == []
