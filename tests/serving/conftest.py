"""Small model packages of each task, and a model repo around them."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import Once

from modelyard.documents import Signature
from modelyard.documents.signature import Category, Number, Task
from modelyard.serving.testing import Server, serve, write_package

SERVICE = Path(__file__).parents[2] / "template" / "bentos" / "service.py"
INPUTS = (
    Number(name="distance", minimum=0, maximum=5000, unit="miles"),
    Number(name="hour", integer=True, minimum=0, maximum=23),
    Number(name="wind", nullable=True),
    Category(name="carrier", values=("AA", "B6", "UA")),
    Category(name="dest", values=("BOS", "LAX"), nullable=True, open=True),
)
ROW = {"distance": 1400.0, "hour": 17, "wind": 12.5, "carrier": "AA", "dest": "LAX"}
CLASSES: dict[Task, tuple[str, ...]] = {
    "binary": ("on time", "late"),
    "multiclass": ("early", "late", "lost"),
    "regression": (),
}


def signature(task: Task) -> Signature:
    return Signature(task=task, target="late", inputs=INPUTS, classes=CLASSES[task], example=ROW)


@pytest.fixture(scope="session")
def package(once: Once) -> Callable[[Task], Path]:
    """Task → its package, version 1, built once a session; never written to."""

    def of(task: Task) -> Path:
        def write(folder: Path) -> None:
            write_package(folder / "1", signature(task), "flight-delay")

        return once(f"package-{task}", write) / "1"

    return of


@pytest.fixture
def service() -> Path:
    return SERVICE


@pytest.fixture(scope="session")
def server(package: Callable[[Task], Path]) -> Iterator[Callable[[Task], Server]]:
    """Task → a running server of the template's service, started when first asked for."""
    with ExitStack() as stack:
        running: dict[Task, Server] = {}

        def of(task: Task) -> Server:
            if task not in running:
                running[task] = stack.enter_context(serve(SERVICE, package(task)))
            return running[task]

        yield of


@pytest.fixture(scope="session")
def make_repo(package: Callable[[Task], Path]) -> Callable[[Path], Path]:
    """Folder → a model repo's files that serving reads, with versions 1 and 2 registered."""

    def make(root: Path) -> Path:
        (root / "bentos").mkdir(parents=True)
        project = '[project]\nname = "flight-delay"\nversion = "0.1.0"\n'
        (root / "pyproject.toml").write_text(project)
        shutil.copy(SERVICE, root / "bentos")
        for version in ("1", "2"):
            shutil.copytree(package("binary"), root / ".modelyard" / "packages" / version)
        return root

    return make
