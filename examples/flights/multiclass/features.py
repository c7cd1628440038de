"""The model's inputs and its target: declared here once, for training and for serving."""

import polars as pl
from modelyard.documents import Category, Number, Signature

from .contract import CARRIERS, ORIGINS

# The test year's destinations; a new one is an unknown category, not an error.
DESTINATIONS = tuple(
    "ABQ ACK ALB ANC ATL AUS AVL BDL BGR BHM BNA BOS BQN BTV BUF BUR BWI BZN CAE CAK CHO CHS "
    "CLE CLT CMH CRW CVG DAY DCA DEN DFW DSM DTW EGE EYW FLL GRR GSO GSP HDN HNL HOU IAD IAH "
    "ILM IND JAC JAX LAS LAX LEX LGB MCI MCO MDW MEM MHT MIA MKE MSN MSP MSY MTJ MVY MYR OAK "
    "OKC OMA ORD ORF PBI PDX PHL PHX PIT PSE PSP PVD PWM RDU RIC ROC RSW SAN SAT SAV SBN SDF "
    "SEA SFO SJC SJU SLC SMF SNA SRQ STL STT SYR TPA TUL TVC TYS XNA".split()
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
DAY_MINUTES = 1440

EARLY_MINUTES = 10
LATE_MINUTES = 15
TARGET = "arrival"
CLASSES = ("early", "on time", "late")


def target() -> pl.Expr:
    """The index of the class: more than 10 minutes early, more than 15 late, or between.

    Null when the flight never arrived (cancelled or diverted): such a row is no training row.
    """
    delay = pl.col("arr_delay")
    return (delay >= -EARLY_MINUTES).cast(pl.Int8) + (delay > LATE_MINUTES).cast(pl.Int8)


SIGNATURE = Signature(
    task="multiclass",
    target=TARGET,
    classes=CLASSES,
    inputs=(
        Category(name="carrier", values=CARRIERS, open=True),
        Category(name="origin", values=ORIGINS),
        Category(name="dest", values=DESTINATIONS, open=True),
        Category(name="weekday", values=DAYS),
        Number(name="departure", minimum=0, maximum=DAY_MINUTES, unit="minutes after midnight"),
        Number(name="duration", minimum=0, maximum=DAY_MINUTES, unit="minutes, as scheduled"),
        Number(name="distance", minimum=0, maximum=6000, unit="miles"),
        Number(name="temp", minimum=-40, maximum=120, nullable=True, unit="°F"),
        Number(name="dewp", minimum=-50, maximum=100, nullable=True, unit="°F"),
        Number(name="humid", minimum=0, maximum=100, nullable=True, unit="per cent"),
        Number(name="wind_north", minimum=-150, maximum=150, nullable=True, unit="mph"),
        Number(name="wind_east", minimum=-150, maximum=150, nullable=True, unit="mph"),
        Number(name="wind_speed", minimum=0, maximum=150, nullable=True, unit="mph"),
        Number(name="wind_gust", minimum=0, maximum=200, nullable=True, unit="mph"),
        Number(name="precip", minimum=0, maximum=10, nullable=True, unit="inches"),
        Number(name="pressure", minimum=900, maximum=1100, nullable=True, unit="mbar"),
        Number(name="visib", minimum=0, maximum=10, nullable=True, unit="miles"),
    ),
    example={
        "carrier": "UA", "origin": "EWR", "dest": "IAH", "weekday": "Tuesday",
        "departure": 315, "duration": 244, "distance": 1400,
        "temp": 39.0, "dewp": 28.0, "humid": 64.4, "wind_north": -2.2, "wind_east": -12.5,
        "wind_speed": 12.7, "wind_gust": None, "precip": 0.0, "pressure": 1011.9, "visib": 10.0,
    },
)  # fmt: skip


def features(flights: pl.LazyFrame) -> pl.LazyFrame:
    """Valid flights (columns of `contract.Flight`) → inputs and target, one row a flight.

    Every input is known before the departure: the schedule, and the weather of the hour
    before. With `carrier`, `origin` and `departure`, the first two columns say which flight it
    is; they are no inputs, and stay beside a prediction.
    """
    schedule = pl.col("sched_arr_time")
    departure = pl.col("hour") * 60 + pl.col("minute")
    arrival = schedule // 100 * 60 + schedule % 100
    wind = pl.col("wind_dir").radians()
    return flights.select(
        "scheduled_hour",
        "flight",
        "carrier",
        "origin",
        "dest",
        target().alias(TARGET),
        weekday=pl.date("year", "month", "day").dt.to_string("%A"),
        departure=departure,
        # Both clocks are local: the time zone's offset is part of the route.
        duration=(arrival - departure) % DAY_MINUTES,
        distance=pl.col("distance"),
        temp=pl.col("temp"),
        dewp=pl.col("dewp"),
        humid=pl.col("humid"),
        wind_north=pl.col("wind_speed") * wind.cos(),
        wind_east=pl.col("wind_speed") * wind.sin(),
        wind_speed=pl.col("wind_speed"),
        wind_gust=pl.col("wind_gust"),
        precip=pl.col("precip"),
        pressure=pl.col("pressure"),
        visib=pl.col("visib"),
    )
