"""What a flight is. A row that breaks this goes to quarantine, with the reason."""

import pandera.polars as pa
import polars as pl

ORIGINS = ("EWR", "JFK", "LGA")
CARRIERS = tuple("9E AA AS B6 DL EV F9 FL HA MQ OO UA US VX WN YV".split())

KNOWN_AFTERWARDS = ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time")
"""Columns that exist only once the flight has left: never an input, always missing live."""


class Flight(pa.DataFrameModel):
    """A scheduled flight out of New York with the weather of the hour before.

    Times are of the local day: HHMM numbers, or hour and minute. A cancelled flight is a
    good row whose actual times are missing.
    """

    scheduled_hour: pl.Datetime("us", "UTC") = pa.Field()  # pyrefly: ignore
    """the hour of the scheduled departure, UTC"""
    year: int = pa.Field(ge=1987)
    month: int = pa.Field(ge=1, le=12)
    day: int = pa.Field(ge=1, le=31)
    hour: int = pa.Field(ge=0, le=23)
    minute: int = pa.Field(ge=0, le=59)
    sched_dep_time: int = pa.Field(ge=0, le=2359)
    sched_arr_time: int = pa.Field(ge=0, le=2400)
    carrier: str = pa.Field(isin=CARRIERS)
    flight: int = pa.Field(ge=1, le=9999)
    tailnum: str = pa.Field(nullable=True)
    origin: str = pa.Field(isin=ORIGINS)
    dest: str = pa.Field(str_matches=r"^[A-Z]{3}$")
    # miles; no airline flies from one New York airport to another (17 miles)
    distance: float = pa.Field(ge=50, le=6000)

    dep_time: int = pa.Field(ge=1, le=2400, nullable=True)
    dep_delay: int = pa.Field(ge=-120, le=3000, nullable=True)  # minutes
    arr_time: int = pa.Field(ge=1, le=2400, nullable=True)
    arr_delay: int = pa.Field(ge=-180, le=3000, nullable=True)  # minutes
    air_time: int = pa.Field(ge=10, le=1000, nullable=True)  # minutes

    temp: float = pa.Field(ge=-40, le=120, nullable=True)  # °F
    dewp: float = pa.Field(ge=-50, le=100, nullable=True)  # °F
    humid: float = pa.Field(ge=0, le=100, nullable=True)  # per cent
    wind_dir: float = pa.Field(ge=0, le=360, nullable=True)  # degrees
    wind_speed: float = pa.Field(ge=0, le=150, nullable=True)  # mph
    wind_gust: float = pa.Field(ge=0, le=200, nullable=True)  # mph
    precip: float = pa.Field(ge=0, le=10, nullable=True)  # inches
    pressure: float = pa.Field(ge=900, le=1100, nullable=True)  # mbar
    visib: float = pa.Field(ge=0, le=10, nullable=True)  # miles

    class Config:  # pyrefly: ignore
        unique = ["scheduled_hour", "minute", "carrier", "flight", "origin"]

    @pa.dataframe_check
    def schedule_agrees(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """`sched_dep_time` is `hour` and `minute`."""
        same = pl.col("sched_dep_time") == pl.col("hour") * 100 + pl.col("minute")
        return data.lazyframe.select(same.fill_null(True))
