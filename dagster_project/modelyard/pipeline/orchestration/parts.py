"""The parts of a model, all of them the team's own, and the settings that they go by."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import polars as pl

from modelyard.documents import Signature, UserError, load_settings
from modelyard.pipeline.config.settings import Settings, TrainingSettings
from modelyard.pipeline.data.source import Source
from modelyard.pipeline.storage.workspace import Workspace

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG = "config.yaml"
Own = TypeVar("Own", bound=TrainingSettings)


@dataclass(frozen=True, kw_only=True)
class Parts(Generic[Own]):
    """The parts of one model, all of them the team's own.

    The module that `settings` stands in is the training: torchrun runs it. The module
    `network` beside it is named here, not imported, because it imports torch: it has
    `Network(signature, settings)`, and `score`, which makes the network's output a prediction.
    """

    contract: type
    """a `pandera.polars.DataFrameModel`: what a row is"""
    read: Callable[[str, Source], pl.DataFrame]
    """(month as YYYY-MM, source) → its rows as they come; the docstring is shown in Dagster"""
    features: Callable[[pl.LazyFrame], pl.LazyFrame]
    """valid rows → inputs and target"""
    signature: Signature
    settings: type[Own]
    """of `training:` in config.yaml"""
    network: str = "network"
    root: Path | None = None
    """of the repo; None: the nearest folder above the settings' module that has config.yaml"""

    @property
    def training(self) -> str:
        """The module that torchrun runs."""
        return self.settings.__module__

    @property
    def package(self) -> str:
        return self.training.rpartition(".")[0]

    @property
    def workspace(self) -> Workspace:
        """Raises UserError where no folder has a config.yaml."""
        if self.root is not None:
            return Workspace(self.root)
        file = Path(str(sys.modules[self.training].__file__)).absolute()
        for folder in file.parents:
            if (folder / CONFIG).is_file():
                return Workspace(folder)
        raise UserError(f"no {CONFIG} in any folder above {file}")

    def config(self) -> Settings[Own]:
        """config.yaml as it is now, read strictly.

        Raises:
            UserError: it has a mistake; the message names the line.
        """
        # Not `Settings[self.settings]` to a type checker, which cannot know the class.
        kind: Any = Settings
        return load_settings(self.workspace.root / CONFIG, kind[self.settings])

    def source(self) -> Source:
        """What `read` is given."""
        return Source.from_settings(self.config().data, self.workspace.root)

    def build_network(self, own: Own) -> "tuple[nn.Module, Callable[[Tensor], Tensor]]":
        """The network with these settings, and its `score`. Imports torch.

        Raises:
            UserError: there is no such module, or it lacks one of the two.
        """
        self.check_modules()
        module = importlib.import_module(f"{self.package}.{self.network}")
        for name in ("Network", "score"):
            if not hasattr(module, name):
                raise UserError(f"{module.__file__} has no {name}; `make train` needs one")
        return module.Network(self.signature, own), module.score

    def check_modules(self) -> None:
        """Without importing the network.

        Raises:
            UserError: there is no such module beside the training, or the training has no main().
        """
        training = sys.modules[self.training]
        if not callable(getattr(training, "main", None)):
            raise UserError(
                f"{training.__file__} has the settings, but no main(); torchrun runs the module "
                f"that {self.settings.__name__} stands in: put the class into train.py"
            )
        if importlib.util.find_spec(f"{self.package}.{self.network}") is None:
            missing = Path(str(training.__file__)).with_name(f"{self.network}.py")
            raise UserError(
                f"{missing} is not there; write the network there, or name its module: "
                "Project(network=…)"
            )
