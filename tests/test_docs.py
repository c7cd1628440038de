"""README and docs: nothing is left to fill in, every local link leads somewhere, and decisions have
one form and one index."""

import re
from pathlib import Path

import pytest
from support import ROOT

ROOTS = ("README.md", "CHANGELOG.md", "migrations/README.md")
PAGES = [*(ROOT / name for name in ROOTS), *sorted((ROOT / "docs").rglob("*.md"))]
DECISIONS = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
HEAD = re.compile(
    r"# (?P<number>\d+)\. (?P<title>.+)\n+"
    r"Status: (?P<status>(?:accepted|superseded by).*)\n+"
    r"Date: \d{4}-\d\d-\d\d\n+"
    r"## Context\n"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    assert "@@" not in text and "TODO" not in text
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    local = [link for link in links if not link.startswith("http")]
    assert [link for link in local if not (page.parent / link).exists()] == []


NAMING = [
    *PAGES,
    ROOT / "Makefile",
    *(ROOT / "template").rglob("*.jinja"),
    *(ROOT / ".github").rglob("*.yml"),
    *(path for path in (ROOT / "scripts").rglob("*.*") if path.suffix in {".py", ".sh"}),
]


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


def head(page: Path) -> re.Match[str]:
    found = HEAD.match(page.read_text())
    assert found, f"{page.name} does not begin with number, title, Status, Date and Context"
    return found


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_its_fields(page: Path) -> None:
    assert page.name.startswith(f"{int(head(page)['number']):04}-")
    sections = re.findall(r"^## (.+)$", page.read_text(), flags=re.MULTILINE)
    assert sections == ["Context", "Decision", "Consequences"]


def test_each_decision_has_a_number_of_its_own_and_is_in_the_index() -> None:
    heads = [head(page) for page in DECISIONS]
    numbers = [found["number"] for found in heads]
    assert sorted(set(numbers), key=int) == numbers
    index = (ROOT / "docs/decisions/README.md").read_text()
    assert re.findall(r"^\| \d.*$", index, flags=re.MULTILINE) == [
        f"| {found['number']} | [{found['title']}]({page.name}) | {found['status']} |"
        for page, found in zip(DECISIONS, heads, strict=True)
    ]
