"""docs/how-to/your-own-data.md, followed to the letter from a blank start."""

import datetime
import random
import re
import sys
from pathlib import Path

import pytest
import yaml
from support import ROOT, commit, run

from modelyard.cli import script
from modelyard.documents import verify_package

pytestmark = [pytest.mark.xdist_group("own-data"), pytest.mark.slow]
GUIDE = ROOT / "docs" / "how-to" / "your-own-data.md"


def blocks() -> dict[str, str]:
    """What stands in the guide's code blocks, by the words behind the language."""
    return dict(re.findall(r"```\w+ ([^\n]+)\n(.*?)```", GUIDE.read_text(), re.DOTALL))


def parcels() -> str:
    """Half a year of parcels; some are on their way, three are no parcels."""
    draw = random.Random(0)
    lines = ["shipped,weight_kg,service,distance_km,days"]
    for day in range(181):
        date = datetime.date(2025, 1, 1) + datetime.timedelta(day)
        for _ in range(20):
            service, distance = draw.choice(["standard", "express"]), draw.randint(5, 2000)
            weight = "" if draw.random() < 0.1 else round(draw.uniform(0.1, 30), 1)
            days = round(distance / (900 if service == "express" else 300) + draw.uniform(1, 2), 1)
            lines.append(f"{date},{weight},{service},{distance},{'' if day > 178 else days}")
    lines += ["2025-03-03,-4,standard,100,2", "2025-03-04,1,by owl,100,2", "soon,1,standard,100,2"]
    return "\n".join(lines) + "\n"


@pytest.fixture
def repo(render, tmp_path: Path) -> Path:
    names = {"project_name": "parcel-days", "description": "How long a parcel takes"}
    repo = render(tmp_path / "parcel-days", task="regression", example=False, **names)
    package, text = repo / "src" / "parcel_days", blocks()
    for name in ("contract.py", "features.py", "data.py"):
        (package / name).write_text(text[name])
    (repo / "tests" / "test_data.py").write_text(text["tests/test_data.py"])
    config = yaml.safe_load((repo / "config.yaml").read_text())
    for section, values in yaml.safe_load(text["config.yaml"]).items():
        config[section].update(values)
    (repo / "config.yaml").write_text(yaml.safe_dump(config))
    (repo / "parcels.csv").write_text(parcels())
    commit(repo, "Parcels")
    return repo


def test_the_guide_leads_to_a_registered_model(repo: Path) -> None:
    environment = {"PYTHONPATH": str(repo / "src"), "DAGSTER_HOME": str(repo / ".dagster")}
    run(Path(sys.executable).with_name("ruff"), "check", ".", cwd=repo)
    assert " passed" in run(sys.executable, "-m", "pytest", "-q", cwd=repo, **environment)
    printed = run(script(), "train", cwd=repo, **environment)
    assert "2025-03: 2 of 622 rows" in printed
    manifest, signature, _ = verify_package(repo / ".modelyard" / "packages" / "1")
    assert manifest.rows["raw"] == 181 * 20 + 3 and manifest.rows["quarantined"] == 3
    assert [i.name for i in signature.inputs][-1] == "weekday"
    assert manifest.metrics["mae"] < 1.0
