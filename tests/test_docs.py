"""README and docs: nothing is left to fill in, and every local link leads somewhere."""

import re
from pathlib import Path

import pytest
from support import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    assert "@@" not in text and "TODO" not in text
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    local = [link for link in links if not link.startswith("http")]
    assert [link for link in local if not (page.parent / link).exists()] == []


NAMING = [*PAGES, ROOT / "Makefile", *(ROOT / "template").rglob("*.jinja"),
          *(ROOT / ".github").rglob("*.yml"), *(ROOT / "scripts").iterdir()]  # fmt: skip


@pytest.mark.parametrize("page", NAMING, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_that_are_named_are_there(page: Path) -> None:
    """`modelyard.x.y` is a module, or a name in one."""
    names = re.findall(
        r"\bmodelyard(?=[.](?:cli|coding|delivery|documents|pipeline|serving|statistics)\b)(?:\.[a-z_]+)+(?:\.[A-Z]\w+)?\b",
        page.read_text(),
    )
    assert [name for name in sorted(set(names)) if not _named(name)] == []


def _named(name: str) -> bool:
    rooms = ("common", "dagster_project", "bentos", "argo")
    for part in (name, name.rpartition(".")[0]):
        path = part.replace(".", "/")
        for room in rooms:
            if (ROOT / room / path).is_dir():
                init = ROOT / room / path / "__init__.py"
                return part == name or _says(init, name)
            if (ROOT / room / f"{path}.py").exists():
                return part == name or _says(ROOT / room / f"{path}.py", name)
    return False


def _says(module: Path, name: str) -> bool:
    return (
        module.exists()
        and re.search(rf"\b{name.rpartition('.')[2]}\b", module.read_text()) is not None
    )
