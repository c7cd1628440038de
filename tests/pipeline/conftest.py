from collections.abc import Callable
from pathlib import Path

import pytest
from pipeline.flights import make_small, write_sample


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few thousand real flights and their weather; not to be changed."""
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder)
    return folder


@pytest.fixture(scope="module")
def repo(
    render: Callable[..., Path], sample: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A flights repo that reads the sample."""
    made = render(tmp_path_factory.mktemp("repo") / "flight-delay")
    make_small(made, sample)
    return made
