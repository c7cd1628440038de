"""From rows as they come to the features: give a few of your own, good ones and a bad one."""

import polars as pl
from modelyard.pipeline.testing import check_features, enforce

from examples.blank.binary.contract import Row
from examples.blank.binary.features import SIGNATURE, TARGET, features

GOOD = pl.DataFrame({"amount": "120.5", "kind": "basic", "outcome": "1.5"})
NOT_KNOWN_YET = GOOD.with_columns(outcome=pl.lit(None))
BAD = GOOD.with_columns(amount=pl.lit("-1"))


def test_good_rows_become_inputs_and_target() -> None:
    found = enforce(pl.concat([GOOD, NOT_KNOWN_YET]), Row)
    assert len(found.valid) == 2
    made = check_features(found.valid, features, SIGNATURE)
    assert made[TARGET].is_null().to_list() == [False, True]


def test_a_bad_row_goes_to_quarantine() -> None:
    assert "amount" in enforce(BAD, Row).quarantined["reason"][0]
