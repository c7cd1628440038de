"""Where a laptop's releases have what: the folders in `.modelyard/`."""

from pathlib import Path

from modelyard.documents import UserError
from modelyard.documents.layout import STATE, StateFolder, bento_package, bentos


class Folders:
    """The folders of one model; none has to be there."""

    def __init__(self, model: str, state: Path = STATE) -> None:
        """Args: model: the name of the Bentos."""
        root = state.absolute()
        self.bentos = bentos(StateFolder(root).bento_home, model)
        self.serving = root / "serving"
        self.envoy = self.serving / "envoy"

    def bento(self, version: int) -> Path:
        return self.bentos / str(version)

    def package(self, version: int) -> Path:
        """The model package in the Bento."""
        return bento_package(self.bento(version), version)

    def server(self, version: int) -> Path:
        """What the servers of a version write; another one has a folder of its own."""
        return self.serving / f"v{version}"

    def predictions(self, version: int) -> Path:
        """The prediction log's folder."""
        return self.server(version) / "predictions"

    def built(self) -> list[int]:
        """The versions that there is a Bento of, ascending."""
        names = [path.parent.name for path in self.bentos.glob("*/bento.yaml")]
        return sorted(int(name) for name in names if name.isdigit())


def latest(model: str, state: Path = STATE) -> int:
    """The newest version that there is a Bento of.

    Raises:
        UserError: there is none.
    """
    found = Folders(model, state).built()
    if not found:
        raise UserError(
            f"no Bento of {model} in {StateFolder(state).bento_home}; "
            "train a model and run `make bento`"
        )
    return max(found)
