import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from pipeline.flights import Registered, make_small, materialize, write_sample
from pipeline.ranks import Trained, train
from support import Once, commit

from modelyard.pipeline.training.workdir import History


@pytest.fixture(scope="session")
def sample(once: Once) -> Path:
    """A folder with a few thousand real flights and their weather; not to be changed."""
    return once("sample", write_sample)


@pytest.fixture(scope="module")
def repo(
    render: Callable[..., Path], sample: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A flights repo that reads the sample."""
    made = render(tmp_path_factory.mktemp("repo") / "flight-delay")
    make_small(made, sample)
    return made


@pytest.fixture(scope="session")
def registered(
    render: Callable[..., Path], sample: Path, tmp_path_factory: pytest.TempPathFactory
) -> Registered:
    folder = tmp_path_factory.mktemp("registered")
    source = Path(shutil.copytree(sample, folder / "source"))
    made = render(folder / "flight-delay")
    make_small(made, source)
    commit(made, "Train on little")
    code, printed = materialize(made)
    assert code == 0, printed
    return Registered(made, source, printed)


@pytest.fixture(scope="session")
def uninterrupted(once: Once) -> Trained:
    def trained(folder: Path) -> None:
        with redirect_stdout(StringIO()) as printed:
            history = train(folder)
        (folder / "history.json").write_text(history.model_dump_json())
        (folder / "printed").write_text(printed.getvalue())

    folder = once("uninterrupted", trained)
    history = History.model_validate_json((folder / "history.json").read_bytes())
    return Trained(history, folder, (folder / "printed").read_text())


@pytest.fixture(scope="session")
def storage() -> Iterator[str]:
    """The URI of a bucket on a real S3 server on loopback."""
    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ.setdefault(key, "testing")
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    options = f"endpoint_override={host}:{port}&scheme=http"
    bucket, _ = fs.FileSystem.from_uri(f"s3://bucket?{options}&allow_bucket_creation=true")
    bucket.create_dir("bucket")
    yield f"s3://bucket/trainings?{options}"
    server.stop()
