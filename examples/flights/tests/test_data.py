"""From the source to the features: what was known before departure, and nothing else."""

from collections.abc import Mapping

import polars as pl
import pytest
from modelyard.pipeline.testing import enforce

from examples.flights.binary.contract import KNOWN_AFTERWARDS, Flight
from examples.flights.binary.data import with_weather
from examples.flights.binary.features import SIGNATURE, TARGET, features

FLIGHT = {
    "year": "2013", "month": "1", "day": "1", "dep_time": "517", "sched_dep_time": "515",
    "dep_delay": "2", "arr_time": "830", "sched_arr_time": "819", "arr_delay": "11",
    "carrier": "UA", "flight": "1545", "tailnum": "N14228", "origin": "EWR", "dest": "IAH",
    "air_time": "227", "distance": "1400", "hour": "5", "minute": "15",
    "time_hour": "2013-01-01T10:00:00Z",
}  # fmt: skip
WEATHER = {
    "origin": "EWR", "temp": "39.02", "dewp": "26.06", "humid": "59.37", "wind_dir": "270",
    "wind_speed": "10.36", "wind_gust": None, "precip": "0", "pressure": "1012", "visib": "10",
    "time_hour": "2013-01-01T09:00:00Z",
}  # fmt: skip
CANCELLED = dict.fromkeys(KNOWN_AFTERWARDS)


def rows(*changes: Mapping[str, str | None]) -> pl.DataFrame:
    """Flights like FLIGHT, each with another number, with the weather of the hour before."""
    flights = [{**FLIGHT, "flight": str(n), **c} for n, c in enumerate(changes, start=1)]
    weather = pl.DataFrame([WEATHER], schema=dict.fromkeys(WEATHER, pl.String))
    return with_weather(pl.DataFrame(flights, schema=dict.fromkeys(FLIGHT, pl.String)), weather)


def inputs(valid: pl.DataFrame) -> pl.DataFrame:
    return features(valid.lazy()).collect().select(given.name for given in SIGNATURE.inputs)


def test_the_weather_is_that_of_the_hour_before() -> None:
    later = {"time_hour": "2013-01-01T09:00:00Z", "hour": "4", "sched_dep_time": "415"}
    assert rows({}, later)["temp"].to_list() == ["39.02", None]


def test_inputs_do_not_change_with_what_is_known_afterwards() -> None:
    valid = enforce(rows({}, {"arr_delay": "200"}), Flight).valid
    blank = valid.with_columns(pl.lit(None).cast(valid[c].dtype).alias(c) for c in KNOWN_AFTERWARDS)
    assert inputs(valid).equals(inputs(blank))
    assert not {given.name for given in SIGNATURE.inputs} & {*KNOWN_AFTERWARDS, TARGET}


def test_a_cancelled_flight_is_valid_but_has_no_target() -> None:
    found = enforce(rows({}, CANCELLED), Flight)
    assert len(found.valid) == 2
    assert features(found.valid.lazy()).collect()[TARGET].is_null().to_list() == [False, True]


def test_the_example_is_what_the_features_give() -> None:
    given = inputs(enforce(rows({}), Flight).valid).row(0, named=True)
    assert {name: type(value) for name, value in given.items() if value is not None} == {
        name: type(given[name]) for name in SIGNATURE.example if given[name] is not None
    }
    assert given["departure"] == 315 and given["duration"] == 184
    assert given["weekday"] == "Tuesday" and given["wind_east"] == pytest.approx(-10.36)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"origin": "PHL"}, "origin: PHL breaks isin"),
        ({"dest": "Houston"}, "dest: Houston breaks str_matches"),
        ({"distance": "17"}, "distance: 17.0 breaks greater_than_or_equal_to(50)"),
        ({"distance": "far"}, "distance: cannot read 'far' as Float64"),
        ({"minute": "75"}, "minute: 75 breaks less_than_or_equal_to(59)"),
        ({"minute": "30"}, "schedule_agrees"),
        ({"time_hour": "10 o'clock"}, "scheduled_hour: missing"),
        ({"flight": "2"}, "stands more than once"),
        ({"month": "x"}, "month: cannot read 'x' as Int64"),
        ({"year": None}, "year: missing"),
    ],
)
def test_a_bad_row_goes_to_quarantine(change: dict[str, str | None], reason: str) -> None:
    found = enforce(rows(change, {}), Flight)
    assert len(found.valid) + len(found.quarantined) == found.read == 2
    assert reason in found.quarantined["reason"][0]
