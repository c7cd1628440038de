"""`config.yaml` of a model repo, read strictly."""

from typing import Annotated, Generic, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from modelyard.pipeline.config.gate import GatePolicy
from modelyard.pipeline.config.kubernetes import KubernetesSettings
from modelyard.pipeline.config.search_space import SearchSettings

Month = Annotated[str, StringConstraints(pattern=r"^\d{4}-(0[1-9]|1[0-2])$")]
"""YYYY-MM"""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Months(Strict):
    """A span of months, both ends included."""

    first: Month = Field(alias="from")
    last: Month = Field(alias="to")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.last < self.first:
            raise ValueError(f"ends ({self.last}) before it begins ({self.first})")
        return self

    def __iter__(self):  # pyrefly: ignore[bad-override]
        year, month = map(int, self.first.split("-"))
        while (name := f"{year:04d}-{month:02d}") <= self.last:
            yield name
            year, month = (year + 1, 1) if month == 12 else (year, month + 1)

    def __str__(self) -> str:
        return self.first if self.first == self.last else f"{self.first} to {self.last}"


class DataSettings(Strict):
    source: str = ""
    """folder of the source files; empty: what the data module brings along"""
    months: Months
    """the partitions"""
    max_quarantined_share: float = Field(0.01, ge=0, le=1)
    """of a partition's rows; above it the pipeline stops"""


class SplitSettings(Strict):
    """By time: a model is tried on months after those that it learnt from."""

    train: Months
    validation: Months
    test: Months

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.train.last < self.validation.first <= self.validation.last < self.test.first:
            raise ValueError(
                f"train ({self.train}), validation ({self.validation}) and test ({self.test}) "
                "must follow one another without overlap"
            )
        return self

    def parts(self) -> dict[str, Months]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


class PredictionSettings(Strict):
    """Of a partition that `make predict` scores."""

    max_quarantined_share: float = Field(0.01, ge=0, le=1)
    """of its rows that do not fit the signature; above it the asset's check fails"""
    max_score_shift: float = Field(0.25, ge=0)
    """population stability index of its scores against the package's reference; a warning"""


class TrainingSettings(Strict):
    """What every training loop has; a team adds its network's settings in a subclass."""

    ranks: int = Field(2, ge=1, le=1024)
    """processes of torchrun on one machine"""
    epochs: int = Field(20, ge=1)
    """at most"""
    patience: int = Field(4, ge=1)
    """epochs without a lower validation loss, then training stops"""
    batch_rows: int = Field(8192, ge=1)
    """per optimiser step, over all ranks"""
    accumulate: int = Field(1, ge=1)
    """parts that a rank computes its share of a step in, one after the other: less memory"""
    learning_rate: float = Field(0.003, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    """of the learning rate after the warm-up; cosine falls to 0 at the last epoch"""
    warmup_steps: int = Field(0, ge=0)
    """over which the learning rate rises from 0"""
    weight_decay: float = Field(0.01, ge=0)
    seed: int = Field(0, ge=0)
    strategy: Literal["ddp", "fsdp2"] = "ddp"
    """a copy of the network on each rank, or its parameters shared out among them"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """of the matrix products; parameters and sums stay float32"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU for each rank where there are as many, else the CPU"""
    checkpoint_seconds: float = Field(60, ge=0)
    """between two checkpoints; what a crash can cost at most"""
    restarts: int = Field(3, ge=0)
    """of ranks that died, from the last checkpoint; an exception of their own is final"""

    @model_validator(mode="after")
    def _a_row_for_each(self) -> Self:
        if self.batch_rows < self.ranks * self.accumulate:
            raise ValueError(
                f"batch_rows ({self.batch_rows}) must be ranks × accumulate "
                f"({self.ranks} × {self.accumulate}) at least: a row for each part of a step"
            )
        return self


WITHOUT_EFFECT = {"ranks", "device", "checkpoint_seconds", "restarts"}
"""settings that a training may go on with other values of"""


Training = TypeVar("Training", bound=TrainingSettings)


class Settings(Strict, Generic[Training]):
    data: DataSettings
    split: SplitSettings
    training: Training
    gate: GatePolicy = GatePolicy()
    kubernetes: KubernetesSettings | None = None
    """where training runs; None: on this machine"""
    tune: SearchSettings | None = None
    """what `make tune` searches"""
    predictions: PredictionSettings = PredictionSettings()

    @field_validator("kubernetes")
    @classmethod
    def _ranks_are_shared_out(
        cls, given: KubernetesSettings | None, others: ValidationInfo
    ) -> KubernetesSettings | None:
        training: TrainingSettings | None = others.data.get("training")
        if given and training:
            if training.ranks % given.pods:
                raise ValueError(f"{given.pods} pods cannot share {training.ranks} ranks equally")
            ranks = training.ranks // given.pods
            if given.gpus not in (0, ranks) or (training.device == "cuda" and not given.gpus):
                raise ValueError(f"gpus: {given.gpus}: a pod has {ranks} ranks, with a GPU each")
        return given

    @field_validator("tune")
    @classmethod
    def _space_fits(
        cls, given: SearchSettings | None, others: ValidationInfo
    ) -> SearchSettings | None:
        training = others.data.get("training")
        if given and training:
            given.check(training)
        return given

    @model_validator(mode="after")
    def _split_within_data(self) -> Self:
        for name, months in self.split.parts().items():
            if months.first < self.data.months.first or months.last > self.data.months.last:
                raise ValueError(
                    f"split.{name} ({months}) lies outside of data.months ({self.data.months})"
                )
        return self
