"""`tune:` of config.yaml: which training settings are searched, and in what ranges."""

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

if TYPE_CHECKING:
    from optuna import Trial

FIXED = {"checkpoint_seconds", "device", "epochs", "ranks", "restarts", "seed", "strategy"}
"""settings that a search must not touch: they say how long or where, not what is learnt"""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Range(_Strict):
    """Numbers between two, both included; whole ones for a setting that takes no others."""

    first: int | float = Field(alias="from")
    last: int | float = Field(alias="to")
    log: bool = False
    """as many values between 0.001 and 0.01 as between 0.01 and 0.1"""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.first < self.last:
            raise ValueError(f"from ({self.first}) must be less than to ({self.last})")
        if self.log and self.first <= 0:
            raise ValueError(f"log: from ({self.first}) must be more than 0")
        return self

    def candidates(self) -> list[Any]:
        return [self.first, self.last]

    def suggest(self, trial: "Trial", name: str, whole: bool) -> int | float:
        if whole:
            return trial.suggest_int(name, int(self.first), int(self.last), log=self.log)
        value = float(f"{trial.suggest_float(name, self.first, self.last, log=self.log):.4g}")
        return min(max(value, self.first), self.last)  # what a person would write down

    def encoded(self, value: Any) -> Any:
        """As Optuna keeps it; None where it's outside."""
        return value if self.first <= value <= self.last else None


class Choices(_Strict):
    choices: tuple[Any, ...] = Field(min_length=2)

    def candidates(self) -> list[Any]:
        return list(self.choices)

    def suggest(self, trial: "Trial", name: str, whole: bool) -> Any:
        known = {_text(choice): choice for choice in self.choices}
        return known[trial.suggest_categorical(name, list(known))]

    def encoded(self, value: Any) -> Any:
        text = _text(value)
        return text if text in map(_text, self.choices) else None


def _text(choice: Any) -> str:
    """Optuna's databases keep no lists."""
    return json.dumps(choice)


def _kind(value: Any) -> str:
    given = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return "choices" if "choices" in given else "range"


Parameter = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")], Discriminator(_kind)
]


class SearchSettings(_Strict):
    trials: int = Field(20, ge=1)
    """trainings, those that were stopped early among them"""
    prune: Literal["median", "hyperband", "none"] = "median"
    """stops a trial after an epoch in which it's worse than the others were on the median"""
    startup_trials: int = Field(5, ge=1)
    """run to their end before any other is stopped"""
    space: dict[str, Parameter] = Field(min_length=1)
    """by settings of `training:`"""

    def check(self, training: BaseModel) -> None:
        """Raises ValidationError where a range holds what `training:` would not take."""
        problems = [
            InitErrorDetails(
                type=PydanticCustomError("space", "{said}", {"said": said}),
                loc=("space", name),
                input=parameter,
            )
            for name, parameter in self.space.items()
            if (said := _problem(training, name, parameter))
        ]
        if problems:
            raise ValidationError.from_exception_data("tune", problems)

    def suggest(self, trial: "Trial", training: type[BaseModel]) -> dict[str, Any]:
        fields = training.model_fields
        return {
            name: parameter.suggest(trial, name, fields[name].annotation is int)
            for name, parameter in self.space.items()
        }

    def current(self, training: BaseModel) -> dict[str, Any] | None:
        """The configuration as it is, as Optuna keeps it; None where it's outside."""
        given = training.model_dump(mode="json")
        found = {name: parameter.encoded(given[name]) for name, parameter in self.space.items()}
        return found if all(value is not None for value in found.values()) else None


def _problem(training: BaseModel, name: str, parameter: Range | Choices) -> str:
    fields = type(training).model_fields
    if name not in fields:
        return f"no setting of training: there are {', '.join(sorted({*fields} - FIXED))}"
    if name in FIXED:
        return "says how long or where a training runs; a search has no business with it"
    if fields[name].annotation not in (int, float) and isinstance(parameter, Range):
        return "is no number: give choices: [...]"
    for value in parameter.candidates():
        try:
            type(training).model_validate({**training.model_dump(), name: value})
        except ValidationError as error:
            return f"{value}: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
    return ""
