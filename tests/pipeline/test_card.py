import numpy as np
import pytest

from modelyard.documents import Manifest, Signature, UserError
from modelyard.documents.signature import Category, Number
from modelyard.pipeline.config.gate import GatePolicy
from modelyard.pipeline.evaluation.gate import compare
from modelyard.pipeline.packaging.model_card import write_card

INPUTS = (
    Number(name="distance", minimum=0, unit="miles"),
    Category(name="carrier", values=tuple("ABCDEFGH"), open=True, nullable=True),
)
MANIFEST = Manifest(
    name="flight-delay",
    created="2026-01-01T00:00:00Z",
    git_commit="a" * 40,
    template_version="b" * 40,
    data_hash="c" * 64,
    test_hash="d" * 64,
    rows={"raw": 336_776, "test": 2000},
    ranks=2,
    configuration={"epochs": 3},
    metrics={},
    environment={"torch": "2.13.0"},
)


def example(task, rows=2000):
    random = np.random.default_rng(0)
    signal = random.normal(size=rows)
    if task == "binary":
        score = 1 / (1 + np.exp(-signal))
        target, classes = (random.random(rows) < score).astype(int), ("on_time", "late")
    elif task == "multiclass":
        odds = np.exp(np.stack([signal, np.zeros(rows), -signal], axis=1))
        score = odds / odds.sum(axis=1, keepdims=True)
        target = (random.random((rows, 1)) > score.cumsum(axis=1)).sum(axis=1)
        classes = ("early", "on time", "late")
    else:
        score, target, classes = 10 * signal, 10 * signal + random.exponential(30, rows), ()
    return Signature(task=task, target="delay", inputs=INPUTS, classes=classes), target, score


@pytest.mark.parametrize(
    ("task", "plots"),
    [
        ("binary", {"roc.png", "calibration.png"}),
        ("multiclass", {"confusion.png"}),
        ("regression", {"prediction.png", "residuals.png"}),
    ],
)
@pytest.mark.parametrize("rows", [60, 2000])
def test_card_of_each_task(tmp_path, task, plots, rows):
    signature, target, score = example(task, rows)
    slices = {"carrier": np.array(["A", "B", "C", None] * (rows // 4), dtype=object)}
    gate = compare(task, target, score, score, slices, GatePolicy(resamples=200, minimum_rows=400))
    card = write_card(tmp_path, MANIFEST, signature, target, score, gate, slices, "Who is late?")
    text = card.read_text()
    for section in (
        "Model details",
        "Intended use",
        "Inputs",
        "Data",
        "Metrics",
        "By slice",
        "Comparison with the champion",
        "Caveats and recommendations",
        "Configuration",
    ):
        assert f"# {section}\n" in text
    assert "Who is late?" in text and "carrier=(missing)" in text and "336,776" in text
    assert gate.reason in text
    assert {p.name for p in (tmp_path / "plots").iterdir()} == plots
    for name in plots:
        assert f"(plots/{name})" in text
        assert (tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG")


def test_same_input_gives_the_same_files(tmp_path):
    signature, target, score = example("binary")
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_card(tmp_path / name, MANIFEST, signature, target, score, None)
        files.append([p.read_bytes() for p in sorted((tmp_path / name).rglob("*.*"))])
    assert files[0] == files[1]


def test_constant_scores_and_slices_of_one_class_still_make_a_card(tmp_path):
    signature, target, score = example("binary")
    slices = {"outcome": target}
    text = write_card(tmp_path, MANIFEST, signature, target, np.full_like(score, 0.5), None, slices)
    assert "outcome=1" in text.read_text()


def test_scores_that_do_not_fit_are_refused(tmp_path):
    signature, target, score = example("binary")
    with pytest.raises(UserError):
        write_card(tmp_path, MANIFEST, signature, target, score[:-1], None)
