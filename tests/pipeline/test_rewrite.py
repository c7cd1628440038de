"""A change to a YAML file leaves every other byte of it alone."""

import pytest
import yaml

from modelyard.documents import UserError
from modelyard.pipeline.config.edit import changed

TEXT = """\
# Of the team.
data: {seed: 7}

training:
  ranks: 2
  learning_rate: 0.003     # per step
  hidden: [128, 64]        # widths
  dropout: 0.1
# The gate.
gate:
  dropout: 0.9
"""


def test_comments_stay_in_their_columns() -> None:
    values = {"hidden": [256], "learning_rate": 0.01234, "dropout": 0.25}
    expected = (
        TEXT.replace("0.003     #", "0.01234   #")
        .replace("[128, 64]        #", "[256]            #")
        .replace("dropout: 0.1", "dropout: 0.25")
    )
    assert changed(TEXT, "training", values) == expected


def test_what_is_not_there_comes_last() -> None:
    after = changed(TEXT, "training", {"embedding": 4, "ranks": 1})
    assert "  dropout: 0.1\n  embedding: 4\n# The gate." in after and "  ranks: 1\n" in after
    assert yaml.safe_load(changed(TEXT, "data", {"source": "x"}))["data"] == {
        "seed": 7,
        "source": "x",
    }


@pytest.mark.parametrize("value", [1e-05, 1234567.0, True, "cosine", "no", [[1, 2], []], None])
def test_every_value_is_read_as_it_was_written(value: object) -> None:
    after = yaml.safe_load(changed(TEXT, "training", {"dropout": value, "new": value}))
    assert after["training"]["dropout"] == after["training"]["new"] == value
    assert type(after["training"]["dropout"]) is type(value)


def test_the_same_values_change_nothing() -> None:
    assert changed(TEXT, "training", {"learning_rate": 0.003, "hidden": [128, 64]}) == TEXT


@pytest.mark.parametrize("block", ["tuning", "training.hidden"])
def test_a_block_that_is_not_there(block: str) -> None:
    with pytest.raises(UserError, match=f"there is no block {block}: to change"):
        changed(TEXT, block, {"a": 1})
