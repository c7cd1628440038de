import numpy as np
import pytest

from modelyard.documents import Signature
from modelyard.documents.signature import Category, Number
from modelyard.pipeline.data.synthetic import draw

INPUTS = (
    Number(name="free"),
    Number(name="ranged", minimum=5, maximum=6),
    Number(name="above", minimum=100, nullable=True),
    Number(name="below", maximum=-1),
    Number(name="count", integer=True, minimum=0, maximum=3),
    Category(name="listed", values=("a", "b", "c")),
    Category(name="open", values=("x",), open=True, nullable=True),
)


def signature(task: str, classes: tuple[str, ...] = ()) -> Signature:
    return Signature.model_validate(
        {"task": task, "target": "y", "inputs": INPUTS, "classes": classes}
    )


def test_rows_keep_the_declaration():
    rows = draw(signature("regression"), 2000)
    assert rows.columns == [*(given.name for given in INPUTS), "y"]
    assert rows["ranged"].is_between(5, 6).all()
    assert (rows["above"].drop_nulls() >= 100).all() and rows["above"].null_count() > 0
    assert (rows["below"] <= -1).all()
    assert set(rows["count"]) == {0, 1, 2, 3}
    assert set(rows["listed"]) == {"a", "b", "c"}
    assert set(rows["open"]) == {"x", "not a open", None}
    assert rows.drop("above", "open").null_count().sum_horizontal().item() == 0


@pytest.mark.parametrize("classes", [("no", "yes"), ("early", "on time", "late")])
def test_classes_are_of_equal_size(classes):
    task = "binary" if len(classes) == 2 else "multiclass"
    counts = np.bincount(draw(signature(task, classes), 600)["y"])
    assert (counts == 600 / len(classes)).all()


def test_same_seed_same_rows():
    given = signature("regression")
    assert draw(given, 50, seed=3).equals(draw(given, 50, seed=3))
    assert not draw(given, 50, seed=3).equals(draw(given, 50, seed=4))
