"""docs/how-to/own-assets.md, followed in a rendered repo; and a hyper-parameter of one's own."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from pipeline.flights import MONTHS, make_small, materialize
from support import ROOT, commit, run

pytestmark = pytest.mark.xdist_group("own-assets")
GUIDE = ROOT / "docs" / "how-to" / "own-assets.md"


def blocks() -> dict[str, str]:
    """What stands in the guide's code blocks, by the words behind the language."""
    return dict(re.findall(r"```\w+ ([^\n]+)\n(.*?)```", GUIDE.read_text(), re.DOTALL))


@pytest.fixture(scope="module")
def made(
    render: Callable[..., Path], sample: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    repo = render(tmp_path_factory.mktemp("own-assets") / "flight-delay")
    make_small(repo, sample)
    commit(repo, "Train on little")
    return repo


@pytest.fixture
def repo(made: Path) -> Iterator[Path]:
    """As it was committed, also after a test has changed it."""
    yield made
    run("git", "reset", "--quiet", "--hard", cwd=made)
    run("git", "clean", "--quiet", "--force", "-d", "-x", cwd=made)


def package(repo: Path) -> Path:
    return repo / "src" / "flight_delay"


def own(repo: Path, name: str, text: str) -> None:
    (package(repo) / "defs" / f"{name}.py").write_text(text)


def define(repo: Path, arguments: str) -> None:
    """`definitions()` of model.py with arguments."""
    model = package(repo) / "model.py"
    text = model.read_text()
    assert "definitions()" in text
    model.write_text(text.replace("definitions()", f"definitions({arguments})"))


def listed(repo: Path) -> dict[str, list[str]]:
    """Each asset's upstream assets, as `dg` loads them."""
    show = (
        "from flight_delay.model import defs; import json; g = defs().resolve_asset_graph(); "
        "print(json.dumps({k.to_user_string(): sorted(p.to_user_string() for p in "
        "g.get(k).parent_keys) for k in g.get_all_asset_keys()}))"
    )
    printed = run(sys.executable, "-c", show, cwd=repo, PYTHONPATH=str(repo / "src"))
    import json

    return json.loads(printed.splitlines()[-1])


def test_an_asset_after_a_standard_one(repo: Path) -> None:
    own(repo, "delays", blocks()["defs/delays.py"])
    code, printed = materialize(repo, "--assets", "raw,valid,quarantine,delays")
    assert code == 0, printed
    assert listed(repo)["delays"] == ["valid"]
    delays = pl.read_parquet(repo / ".modelyard" / "data" / "delays" / f"{MONTHS[0]}.parquet")
    assert delays.columns == ["carrier", "delay"] and len(delays) > 10


def test_an_asset_before_a_standard_one(repo: Path) -> None:
    own(repo, "holidays", blocks()["defs/holidays.py"])
    define(repo, blocks()["model.py deps"].strip().partition("definitions(")[2].rstrip(")"))
    assert listed(repo)["raw"] == ["holidays"]
    code, printed = materialize(repo, "--assets", "holidays,raw")
    assert code == 0, printed
    assert printed.index(" holidays ") < printed.index(" raw ")


def test_an_asset_in_the_place_of_a_standard_one(repo: Path) -> None:
    own(repo, "raw", blocks()["defs/raw.py"])
    define(repo, blocks()["model.py replace"].strip().partition("definitions(")[2].rstrip(")"))
    printed = run(
        Path(sys.executable).with_name("dg"), "check", "defs", cwd=repo,
        PYTHONPATH=str(repo / "src"), DAGSTER_HOME=str(repo / ".dagster"),
    )  # fmt: skip
    assert "loaded successfully" in printed
    code, printed = materialize(repo, "--assets", "raw,valid,quarantine,features")
    assert code == 0, printed
    raw = pl.read_parquet(repo / ".modelyard" / "data" / "raw" / f"{MONTHS[0]}.parquet")
    assert raw["origin"].unique().to_list() == ["JFK"]
    assert listed(repo)["valid"] == ["raw"]


TWICE = "import dagster as dg\n\n\n@dg.asset\ndef {name}() -> None: ...\n"


@pytest.mark.parametrize(
    ("asset", "arguments", "message"),
    [
        ("raw", "", "defs/ has an asset raw, and so has the platform"),
        ("", 'replace=["raw"]', "replace=…) names raw, but defs/ has no such asset"),
        ("valid", 'replace=["valid"]', "replace quarantine, too"),
        ("", 'replace=["rows"]', "replace=…) names rows, which is no standard asset"),
        ("", 'deps={"row": ["a"]}', "deps=…) names row, which is no standard asset"),
    ],
)
def test_assets_that_do_not_fit_together(
    asset: str, arguments: str, message: str, repo: Path
) -> None:
    if asset:
        own(repo, asset, TWICE.format(name=asset))
    define(repo, arguments)
    code, printed = materialize(repo, "--assets", "raw")
    assert code == 1 and message in printed and "Traceback" not in printed, printed


def test_a_part_of_the_model_that_is_missing(repo: Path) -> None:
    (package(repo) / "network.py").rename(package(repo) / "net.py")
    code, printed = materialize(repo, "--assets", "raw")
    assert code == 1 and "network.py is not there" in printed and "Traceback" not in printed


def test_a_hyper_parameter_touches_three_files(repo: Path) -> None:
    def change(path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))

    train, network = package(repo) / "train.py", package(repo) / "network.py"
    change(train, "    dropout: float", "    slope: float = Field(0.0, ge=0)\n    dropout: float")
    change(network, "nn.ReLU()", "nn.LeakyReLU(settings.slope)")
    change(repo / "config.yaml", "  dropout: 0.1\n", "  dropout: 0.1\n  slope: 0.2\n")
    changed = run("git", "diff", "--name-only", cwd=repo).split()
    assert changed == ["config.yaml", "src/flight_delay/network.py", "src/flight_delay/train.py"]

    code, printed = materialize(repo, "--assets", "*exported_model")
    assert code == 0, printed
    model = repo / ".modelyard" / "evaluation" / "model.pt2"
    show = f"import torch; print(torch.export.load({str(model)!r}).graph)"
    assert "leaky_relu" in run(sys.executable, "-c", show, cwd=repo)
    assert "0.2)" in run(sys.executable, "-c", show, cwd=repo)
    change(repo / "config.yaml", "  slope: 0.2\n", "  slope: -0.2\n")
    code, printed = materialize(repo, "--assets", "raw")
    assert code == 1 and re.search(r"config.yaml:\d+: training.slope: ", printed)
