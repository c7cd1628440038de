"""Object storage, against a real S3 server: whole or absent, and what is said when it fails."""

from pathlib import Path

import pytest

from modelyard.documents import UserError
from modelyard.pipeline.storage.objects import Objects, Stream
from modelyard.pipeline.training.exchange import Exchange


@pytest.fixture
def objects(storage: str, request: pytest.FixtureRequest) -> Objects:
    return Objects(storage).below(request.node.name)


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_a_folder_there_and_back(objects: Objects, tmp_path: Path) -> None:
    source = write(tmp_path / "source", a="1", b="22")
    objects.upload_folder(source, "train")
    assert objects.sizes() == {"train/a": 1, "train/b": 2}
    objects.download_folder("train", tmp_path / "target")
    assert {p.name: p.read_text() for p in (tmp_path / "target").iterdir()} == {"a": "1", "b": "22"}
    objects.delete("train")
    objects.delete("train")
    assert objects.sizes() == {}


def test_only_what_is_not_there_is_uploaded_again(objects: Objects, tmp_path: Path) -> None:
    objects.upload_folder(write(tmp_path, a="1", b="22"), "train")
    objects.upload_folder(write(tmp_path, a="2", b="333"), "train")
    assert (objects.get("train/a"), objects.get("train/b")) == (b"1", b"333")


def test_a_stream_is_read_as_it_comes(objects: Objects) -> None:
    writer, other, reader = (Stream(objects, "output") for _ in range(3))
    assert reader.read() == ""
    writer.write("one\n")
    other.write("two\n")
    assert reader.read() == "one\ntwo\n"
    writer.write("three\n")
    assert reader.read() == "three\n"


def test_a_checkpoint_is_complete_or_absent(objects: Objects, tmp_path: Path) -> None:
    exchange = Exchange(objects)
    parts = {"__0_0.distcp": "zero", "__1_0.distcp": "one", ".metadata": "index"}
    folder = write(tmp_path / "new", **parts, **{"progress.json": "{}"})
    exchange.share(folder, "00001-000000010", rank=0)
    exchange.share(folder, "00001-000000010", rank=1)
    assert exchange.complete() == []
    exchange.publish(folder, "00001-000000010")
    assert exchange.complete() == ["00001-000000010"]

    exchange.share(folder, "00002-000000005", rank=1)  # rank 0 dies meanwhile
    assert exchange.complete() == ["00001-000000010"]
    exchange.fetch("00001-000000010", tmp_path / "back")
    back = tmp_path / "back" / "00001-000000010"
    assert {p.name for p in back.iterdir()} == {*parts, "progress.json"}

    exchange.share(folder, "00002-000000005", rank=0)
    exchange.publish(folder, "00002-000000005")
    assert exchange.complete() == ["00002-000000005"]


def test_a_storage_that_is_not_there(storage: str) -> None:
    elsewhere = Objects(storage.replace("//bucket", "//nowhere"))
    with pytest.raises(OSError, match="NO_SUCH_BUCKET"):
        elsewhere.put("a", b"1")
    with pytest.raises(UserError, match="object storage what://is/it: "):
        Objects("what://is/it")
