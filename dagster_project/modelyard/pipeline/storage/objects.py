"""Files in object storage, by pyarrow: what the pods of a training share instead of a disk."""

import time
from pathlib import Path

from modelyard.documents import UserError
from modelyard.documents.files import replaced

STORAGE = "MODELYARD_STORAGE"
"""environment variable: the folder of the training under way; unset where ranks share a disk"""


class Objects:
    """A folder of a bucket, named by a URI as pyarrow reads it.

    `s3://bucket/folder`, or `s3://bucket/folder?endpoint_override=host:9000&scheme=http` for
    another storage that speaks S3; `gs://…` for Google's. Credentials come from the places
    where the cloud's own tools find them. All methods raise OSError where the storage fails.
    """

    def __init__(self, uri: str) -> None:
        from pyarrow import ArrowException, fs

        self.uri = uri
        try:
            self._system, self._root = fs.FileSystem.from_uri(uri)
        except (ArrowException, OSError) as error:
            raise UserError(f"object storage {uri}: {error}") from None

    def below(self, folder: str) -> "Objects":
        """A folder in this one."""
        place, _, options = self.uri.partition("?")
        return Objects(f"{place.rstrip('/')}/{folder}" + (f"?{options}" if options else ""))

    def put(self, name: str, content: bytes) -> None:
        """Write one object; it's there as a whole or not at all."""
        with self._system.open_output_stream(f"{self._root}/{name}") as stream:
            stream.write(content)

    def get(self, name: str) -> bytes:
        with self._system.open_input_stream(f"{self._root}/{name}") as stream:
            return stream.readall()

    def upload(self, path: Path, name: str) -> None:
        """A file, whatever its size."""
        from pyarrow import fs

        target = f"{self._root}/{name}"
        fs.copy_files(str(path), target, fs.LocalFileSystem(), self._system)

    def download(self, name: str, path: Path) -> None:
        """One object, whatever its size; whole or not at all."""
        from pyarrow import fs

        with replaced(path) as new:
            fs.copy_files(f"{self._root}/{name}", str(new), self._system, fs.LocalFileSystem())

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Name → bytes of all objects in a folder, by name."""
        from pyarrow import fs

        base = f"{self._root}/{folder}".rstrip("/")
        found = self._system.get_file_info(
            fs.FileSelector(base, recursive=True, allow_not_found=True)
        )
        files = {f.path[len(self._root) + 1 :]: f.size for f in found if f.is_file}
        return dict(sorted(files.items()))

    def remove(self, name: str) -> None:
        """One object; nothing where there is none."""
        if name in self.sizes():
            self._system.delete_file(f"{self._root}/{name}")

    def delete(self, folder: str = "") -> None:
        """All objects in a folder; nothing where there is none."""
        if self.sizes(folder):
            self._system.delete_dir(f"{self._root}/{folder}".rstrip("/"))

    def upload_folder(self, path: Path, folder: str) -> None:
        """All files of a local folder that are not there yet in the same size."""
        there = self.sizes(folder)
        for file in sorted(each for each in path.rglob("*") if each.is_file()):
            name = f"{folder}/{file.relative_to(path).as_posix()}"
            if there.get(name) != file.stat().st_size:
                self.upload(file, name)

    def download_folder(self, folder: str, path: Path) -> None:
        for name in self.sizes(folder):
            self.download(name, path / name[len(folder) + 1 :])


class Stream:
    """Text that pods add to and the launcher reads, piece by piece, as it comes."""

    def __init__(self, objects: Objects, name: str) -> None:
        self._objects, self._name = objects, name
        self._seen: set[str] = set()

    def write(self, text: str) -> None:
        self._objects.put(f"{self._name}/{time.time_ns():020d}", text.encode())

    def read(self) -> str:
        """What was added since the last call."""
        new = [name for name in self._objects.sizes(self._name) if name not in self._seen]
        text = "".join(self._objects.get(name).decode() for name in new)
        self._seen.update(new)  # not before: a storage that fails gives it to the next call
        return text
