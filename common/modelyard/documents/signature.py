"""What a model takes and gives: `signature.json` of a model package."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Task = Literal["binary", "multiclass", "regression"]

FLOAT32_MAX = 3.4028234663852886e38


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Number(_Strict):
    """A numeric input, as one float32 column of the graph's `numbers` tensor; missing is NaN."""

    kind: Literal["number"] = "number"
    name: str
    integer: bool = False
    minimum: float | None = None
    maximum: float | None = None
    nullable: bool = False
    unit: str = ""

    @property
    def low(self) -> float:
        """The least value that fits: `minimum`, within what a float32 holds."""
        return -FLOAT32_MAX if self.minimum is None else max(self.minimum, -FLOAT32_MAX)

    @property
    def high(self) -> float:
        """The largest value that fits: `maximum`, within what a float32 holds."""
        return FLOAT32_MAX if self.maximum is None else min(self.maximum, FLOAT32_MAX)


class Category(_Strict):
    """A categorical input, as one int64 column of the graph's `categories` tensor.

    The code of `values[i]` is `i + 1`. Code 0 stands for a missing value (`nullable`)
    and for a value that is not listed (`open`).
    """

    kind: Literal["category"] = "category"
    name: str
    values: tuple[str, ...] = Field(min_length=1)
    nullable: bool = False
    open: bool = False

    @property
    def codes(self) -> dict[str | None, int]:
        """value → code; all that is not in it has the code 0"""
        return {value: code for code, value in enumerate(self.values, start=1)}


Input = Annotated[Number | Category, Field(discriminator="kind")]


class Signature(_Strict):
    """Inputs in the order of the graph's columns, and the meaning of its output.

    The graph maps `numbers` float32 [N, len(numbers)] and `categories` int64
    [N, len(categories)] to `score` float32: the probability of `classes[1]` [N]
    (binary), of each class [N, len(classes)] (multiclass), or the value [N]
    (regression).
    """

    task: Task
    target: str
    inputs: tuple[Input, ...] = Field(min_length=1)
    classes: tuple[str, ...] = ()
    example: dict[str, float | str | None] = {}

    @property
    def numbers(self) -> list[Number]:
        return [i for i in self.inputs if isinstance(i, Number)]

    @property
    def categories(self) -> list[Category]:
        return [i for i in self.inputs if isinstance(i, Category)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [i.name for i in self.inputs]
        if len(set(names)) != len(names):
            repeated = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"duplicate inputs: {', '.join(repeated)}")
        least = {"binary": 2, "multiclass": 2, "regression": 0}[self.task]
        if len(self.classes) < least or (self.task != "multiclass" and len(self.classes) > least):
            raise ValueError(f"a {self.task} model can't have {len(self.classes)} classes")
        return self
