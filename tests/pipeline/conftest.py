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
from support import commit


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
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("uninterrupted")
    with redirect_stdout(StringIO()) as printed:
        history = train(folder)
    return Trained(history, folder, printed.getvalue())


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
