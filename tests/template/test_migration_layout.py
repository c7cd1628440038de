"""migrations/0001: a repo of before decision 56 comes to its layout, with what the team wrote."""

import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from support import ROOT, Once, commit, run

pytestmark = pytest.mark.xdist_group("ages")
AGE = "b98462d"
ASSETS = {
    "best_configuration", "deployed_version", "evaluation", "exported_model", "features",
    "model_package", "model_version", "predictions", "quarantine", "raw", "replay", "test_set",
    "train_set", "valid", "validation_set", "weights",
}  # fmt: skip
"""of the wiring that a repo of that age has"""
ANSWERS = {"project_name": "flight-delay"}
PACKAGE = "src/flight_delay"

Migrated = Callable[..., list[tuple[str, int | None, str]]]


@pytest.fixture(scope="module")
def migration() -> ModuleType:
    return importlib.import_module("migrations.0001_one_call_in_model_py")


@pytest.fixture
def copied(once: Once, made_at, tmp_path: Path) -> Callable[..., Path]:
    """A repo of that age: `copied("flights")`, `copied("blank", "regression")`."""

    def copied(start: str, task: str = "binary") -> Path:
        given = {"example": start == "flights", "task": task}
        name = f"{AGE}-{start}-{task}"
        folder = once(name, lambda made: made_at(AGE, made / "flight-delay", **given))
        return Path(shutil.copytree(folder / "flight-delay", tmp_path / "flight-delay"))

    return copied


@pytest.fixture
def migrated(migration: ModuleType, tmp_path: Path) -> Migrated:
    """Migrate the repo that is given, of which HEAD is as it was rendered."""

    def migrated(repo: Path, **answers: object) -> list[tuple[str, int | None, str]]:
        rendered = tmp_path / "rendered"
        run("git", "clone", "--quiet", repo, rendered, cwd=tmp_path)
        return migration.migrate(repo, rendered, ANSWERS | answers)

    return migrated


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
    path.write_text(text.replace(old, new))


def python(repo: Path, *arguments: str) -> str:
    return run(sys.executable, *arguments, cwd=repo, PYTHONPATH=str(repo / "src"))


def assets(repo: Path) -> set[str]:
    show = (
        "import json; from flight_delay.model import project; "
        "from modelyard.pipeline.testing import assets; print(json.dumps(sorted(assets(project))))"
    )
    return set(json.loads(python(repo, "-c", show).splitlines()[-1]))


def line_of(path: Path, text: str) -> int:
    return next(n for n, line in enumerate(path.read_text().splitlines(), 1) if text in line)


# --- by the documented command ----------------------------------------------------------


@pytest.mark.slow
def test_a_repo_that_nobody_edited_is_as_one_that_is_rendered_today(
    copied, history: Path, tmp_path: Path, update
) -> None:
    repo = copied("flights")

    done = update(repo, history)

    assert done.code == 0 and not done.wanted, done.text
    assert assets(repo) == ASSETS
    names = {path.name for path in (repo / PACKAGE).rglob("*.py")}
    parts = {"contract.py", "data.py", "features.py", "model.py", "network.py", "train.py"}
    assert names == parts | {"__init__.py"}
    assert " passed" in python(repo, "-m", "pytest", "-q")
    run(Path(sys.executable).with_name("ruff"), "check", ".", cwd=repo)
    assert not [line for line in done.told if line.startswith("new: tests/")]
    commit(repo, "Update")
    assert "nothing to do" in update(repo, history).text


def guide(history: Path) -> dict[str, str]:
    """What stood in the code blocks of "Your own data" then, by the words behind the language."""
    text = run("git", "show", f"{AGE}:docs/how-to/your-own-data.md", cwd=history)
    return dict(re.findall(r"```\w+ ([^\n]+)\n(.*?)```", text, re.DOTALL))


REPORT = '''"""How many parcels there are."""

import dagster as dg
import polars as pl
from modelyard.pipeline.steps import pod

from ..settings import settings, workspace
from .data import MONTHLY


@dg.asset(**MONTHLY, **pod(cpu="1", memory="1Gi"), deps=["valid"])
def parcels(context: dg.AssetExecutionContext) -> None:
    """Of each month, of all that there are."""
    for month in context.partition_keys:
        rows = len(pl.read_parquet(workspace.partition("valid", month)))
        context.log.info(f"{rows} in {month}, of {settings().data.months}")
'''


def fill_in(repo: Path, blocks: dict[str, str]) -> None:
    """By the guide of then; with a name of its own for a row, a hyper-parameter and an asset."""
    package = repo / PACKAGE
    (package / "contract.py").write_text(blocks["contract.py"].replace("class Row(", "class Parcel("))
    (package / "features.py").write_text(blocks["features.py"])
    data = package / "defs" / "data.py"
    text = data.read_text().replace("import Row", "import Parcel").replace("space, Row", "space, Parcel")
    head, _, rest = text.partition("def read(")
    _, raw, assets = rest.partition("@dg.asset(**MONTHLY")
    data.write_text(f"{head}{blocks['defs/data.py read']}\n\n{raw}{assets}")
    edit(
        package / "settings.py",
        "dropout: float = Field(0.1, ge=0, lt=1)\n",
        "dropout: float = Field(0.1, ge=0, lt=1)\n    slope: float = Field(0.0, ge=0)  # of the ReLU\n",
    )
    signature = "hidden: tuple[int, ...], embedding: int, dropout: float"
    edit(package / "network.py", signature, f"{signature}, slope: float")
    edit(package / "network.py", "nn.ReLU()", "nn.LeakyReLU(slope)")
    edit(package / "train.py", "settings.dropout)", "settings.dropout, settings.slope)")
    edit(package / "defs" / "evaluation.py", "own.dropout)", "own.dropout, own.slope)")
    edit(repo / "tests" / "test_model.py", "S.dropout)", "S.dropout, SETTINGS.slope)")
    (package / "defs" / "parcels.py").write_text(REPORT)
    config = yaml.safe_load((repo / "config.yaml").read_text())
    for section, values in yaml.safe_load(blocks["config.yaml"]).items():
        config[section].update(values)
    config["training"]["slope"] = 0.2
    (repo / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (repo / "parcels.csv").write_text(
        "shipped,weight_kg,service,distance_km,days\n2025-01-02,1.4,standard,310,4\n"
        "2025-02-02,,express,55,1\nsoon,1,standard,5,1\n"
    )


@pytest.mark.slow
def test_a_blank_repo_that_was_filled_in_keeps_what_it_is(copied, history: Path, update) -> None:
    repo = copied("blank", "regression")
    fill_in(repo, guide(history))
    commit(repo, "Parcels")

    done = update(repo, history)

    assert done.code == 2, done.text
    assert done.wanted == ["tests/test_data.py:1: no test has rows of yours yet: give a few"]
    assert assets(repo) == ASSETS | {"parcels"}
    train, network = ((repo / PACKAGE / f"{name}.py").read_text() for name in ("train", "network"))
    assert "    slope: float = Field(0.0, ge=0)  # of the ReLU\n" in train
    assert "Network(run.signature, settings)" in train and not (repo / PACKAGE / "settings.py").exists()
    assert "def __init__(self, signature: Signature, settings: Settings) -> None:" in network
    assert yaml.safe_load((repo / "config.yaml").read_text())["training"]["slope"] == 0.2
    show = "from flight_delay.model import project as p; print(len(p.read('2025-01', p.source())))"
    assert python(repo, "-c", show).split()[-1] == "2", "with the one whose day nobody can read"
    assert " passed" in python(repo, "-m", "pytest", "-q")
    run(Path(sys.executable).with_name("ruff"), "check", ".", cwd=repo)


@pytest.mark.slow
def test_wiring_that_was_edited_stays_and_is_named(copied, history: Path, update) -> None:
    repo = copied("flights")
    path = repo / PACKAGE / "defs" / "training.py"
    edit(path, '**pod(cpu="4", memory="8Gi")', '**pod(cpu="16", memory="64Gi")')
    text = path.read_text()
    commit(repo, "The team's work")

    done = update(repo, history)

    assert done.code == 2 and path.read_text() == text
    place, _, what = done.wanted[0].partition(": ")
    assert place == f"{PACKAGE}/defs/training.py:{line_of(path, '64Gi')}"
    assert 'project.definitions(replace=["weights"])' in what
    assert {line.split(":")[0] for line in done.wanted} == {f"{PACKAGE}/defs/training.py"}


# --- single files -----------------------------------------------------------------------


@pytest.mark.parametrize("start", ["flights", "blank"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_nothing_of_a_repo_that_nobody_edited_is_left(
    start: str, task: str, copied, migrated: Migrated
) -> None:
    repo = copied(start, task)
    assert migrated(repo, example=start == "flights") == []
    kept = {path.name for path in (repo / PACKAGE).glob("*.py")}
    assert kept == {"__init__.py", "definitions.py", "settings.py"}, "these the update removes"


def test_read_of_the_flights_that_was_edited(copied, migrated: Migrated) -> None:
    repo = copied("flights")
    data = repo / PACKAGE / "defs" / "data.py"
    edit(data, "return with_weather(flights, weather)", "return with_weather(flights, weather).unique()")
    edit(data, "dest air_time", "dest  air_time")
    assert migrated(repo) == []
    text = (repo / PACKAGE / "data.py").read_text()
    assert not data.exists() and "dest  air_time" in text
    read = text[text.index("def read") : text.index("def with_weather")].rstrip()
    assert read == (
        "def read(month: str, source: Source) -> pl.DataFrame:\n"
        '    """All flights with their weather, every column as text: the contract reads the types."""\n'
        '    flights = source.csv("flights", FLIGHT_COLUMNS)\n'
        '    weather = source.csv("weather", WEATHER_COLUMNS)\n'
        "    return source.of_month(with_weather(flights, weather).unique(), MONTH, month)"
    )
    assert "dagster" not in text and "functools" not in text and "settings" not in text


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('kinds={"csv", "polars"}', 'kinds={"csv"}', "the platform has `raw` now"),
        ("return with_weather(", "print(settings())\n    return with_weather(", "no `settings`"),
        ("def read(folder: Path)", "def read(folder: Path, n: int = 0)", "`read(month, source)`"),
    ],
)
def test_data_that_cannot_be_changed_with_certainty(
    old: str, new: str, what: str, copied, migrated: Migrated
) -> None:
    repo = copied("flights")
    data = repo / PACKAGE / "defs" / "data.py"
    edit(data, old, new)
    text = data.read_text()
    found = migrated(repo)
    assert data.read_text() == text and not (repo / PACKAGE / "data.py").exists()
    assert {name for name, _, _ in found} == {f"{PACKAGE}/defs/data.py"}
    assert any(what in said for _, _, said in found)
    assert any("take over into data.py" in said for _, _, said in found)


def test_a_train_py_that_needs_torch_outside_of_main(copied, migrated: Migrated) -> None:
    repo = copied("flights")
    train = repo / PACKAGE / "train.py"
    edit(train, "def main()", "def seed() -> None:\n    torch.manual_seed(1)\n\n\ndef main()")
    assert migrated(repo) == []
    text, network = train.read_text(), (repo / PACKAGE / "network.py").read_text()
    assert text.index("import torch") < text.index("class Settings") < text.index("def seed")
    assert "if TYPE_CHECKING:\n    from .train import Settings" in network, "no circle"
    python(repo, "-c", "import flight_delay.network, flight_delay.train")


def test_a_network_that_takes_something_else_is_named(copied, migrated: Migrated) -> None:
    repo = copied("flights")
    train = repo / PACKAGE / "train.py"
    edit(train, "settings.hidden, settings.embedding", "(64, 64), settings.embedding")
    text = train.read_text()
    found = migrated(repo)
    assert train.read_text() == text
    assert [(name, line) for name, line, _ in found] == [
        (f"{PACKAGE}/network.py", 1),
        (f"{PACKAGE}/train.py", line_of(train, "(64, 64)")),
    ]


def test_what_a_part_of_the_model_cannot_import_any_more_is_named(
    copied, migrated: Migrated
) -> None:
    """`project` cannot be imported by what model.py imports."""
    repo = copied("flights")
    features = repo / PACKAGE / "features.py"
    edit(features, "import CARRIERS, ORIGINS\n", "import CARRIERS, ORIGINS\nfrom .settings import settings\n")
    (place,) = migrated(repo)
    assert place[:2] == (f"{PACKAGE}/features.py", line_of(features, "from .settings"))
    assert "modelyard.documents.signature" not in features.read_text(), "what can be mended is"


def test_read_keeps_what_its_source_does_not_have(copied, migrated: Migrated) -> None:
    repo = copied("blank")
    data = repo / PACKAGE / "defs" / "data.py"
    edit(data, "    from modelyard.documents import UserError\n", "    from modelyard.pipeline import sources\n")
    head, _, rest = data.read_text().partition("    raise UserError(")
    _, _, rest = rest.partition("\n    )\n")
    data.write_text(f'{head}    return sources.read_csv(workspace.root / "a.csv", ["a"])\n{rest}')
    (place,) = migrated(repo, example=False)
    text = (repo / PACKAGE / "data.py").read_text()
    assert 'return sources.read_csv(source.root / "a.csv", ["a"])' in text
    assert place[:2] == (f"{PACKAGE}/data.py", line_of(repo / PACKAGE / "data.py", "csv_source"))


def test_tests_that_were_edited_have_their_imports_mended(copied, migrated: Migrated) -> None:
    repo = copied("flights")
    tests = repo / "tests"
    edit(tests / "test_data.py", '{"origin": "PHL"}', '{"origin": "BOS"}')
    edit(tests / "test_data.py", "origin: PHL", "origin: BOS")
    edit(tests / "test_model.py", "epochs=8", "epochs=9")
    found = migrated(repo)
    text = (tests / "test_data.py").read_text()
    assert "from modelyard.pipeline.testing import enforce\n" in text
    assert "from flight_delay.data import with_weather\n" in text
    assert 'enforce(rows({}, CANCELLED), Flight)' in text
    (place,) = found
    assert place[:2] == ("tests/test_model.py", line_of(tests / "test_model.py", "arrays import"))
    assert "modelyard.pipeline.testing" in place[2]


def test_what_the_team_deleted_does_not_return(copied, migrated: Migrated, tmp_path: Path) -> None:
    repo = copied("flights")
    for name in ("network.py", "features.py"):
        (repo / PACKAGE / name).unlink()
    (repo / "tests" / "test_data.py").unlink()
    migrated(repo)
    for name in (f"{PACKAGE}/network.py", f"{PACKAGE}/features.py", "tests/test_data.py"):
        assert (tmp_path / "rendered" / name).exists(), "the update knows it as deleted"


def test_a_repo_of_the_new_layout_is_not_touched(render, migrated: Migrated, tmp_path: Path) -> None:
    repo = render(tmp_path / "flight-delay")
    assert migrated(repo) == []
    assert run("git", "status", "--porcelain", cwd=repo) == ""
