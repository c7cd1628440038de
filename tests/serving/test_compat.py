"""What is relied on of others' private parts: which versions it was tried with, and all others."""

import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from support import ROOT

from modelyard.documents import UserError
from modelyard.documents.signature import Task
from modelyard.serving.bento.hashes import SHIPPED
from modelyard.serving.bentoml_compat import versions

SERVICE = """
from modelyard.serving import ModelService, service

@service()
class Service(ModelService):
    pass
"""
OTHER = (
    "uvicorn 0.1 is installed; this modelyard relies on inner parts of it and was tried with "
    "0.54.0 only: install uvicorn==0.54.0, as modelyard's constraints.txt has it, or a modelyard "
    "that was tried with uvicorn 0.1"
)


def test_what_is_pinned_was_tried() -> None:
    for file in (ROOT / "constraints.txt", SHIPPED):
        pins = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", file.read_text(), re.M))
        assert {name: pins[name] for name in versions.TRIED} == {
            name: tried[-1] for name, tried in versions.TRIED.items()
        }


def test_the_versions_installed_here_were_tried() -> None:
    versions.check_versions()


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda n: "0.1" if n == "uvicorn" else installed(n))
    with pytest.raises(UserError) as caught:
        versions.check_versions()
    assert str(caught.value) == OTHER


@pytest.mark.parametrize("command", [["bentoml", "serve", "service.py"], ["modelyard", "build"]])
def test_at_start_another_version_is_one_clear_error(
    command: list[str], tmp_path: Path, package: Callable[[Task], Path]
) -> None:
    (tmp_path / "service.py").write_text(SERVICE)
    planted = tmp_path / "planted" / "uvicorn-0.1.dist-info"
    planted.mkdir(parents=True)
    (planted / "METADATA").write_text("Metadata-Version: 2.1\nName: uvicorn\nVersion: 0.1\n")
    path = ":".join([str(planted.parent), *filter(None, sys.path)])
    ended = subprocess.run(
        [Path(sys.executable).with_name(command[0]), *command[1:]],
        cwd=tmp_path,
        env={
            "PYTHONPATH": path,
            "MODELYARD_PACKAGE": str(package("binary")),
            "HOME": str(tmp_path),
            "BENTOML_DO_NOT_TRACK": "True",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    printed = " ".join((ended.stdout + ended.stderr).split())
    assert ended.returncode == 1
    assert OTHER in printed and "Traceback" not in printed
