"""`make setup` refuses a model's name that would hide a package of the environment."""

from pathlib import Path

import pytest
from support import run

from modelyard.cli import script

CHECK = (script(), "check-name")


def checked(folder: Path, name: str, check: bool = False) -> str:
    package = name.replace("-", "_")
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "{name}"\n[tool.dg.project]\nroot_module = "{package}"\n'
    )
    return run(*CHECK, cwd=folder, check=check)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("onnx", "onnx 1."),
        ("msgspec", "msgspec 0."),
        ("scikit-learn", "scikit-learn 1."),
        ("sklearn", "`sklearn` is a package of scikit-learn"),
        ("yaml", "`yaml` is a package of PyYAML"),
        ("prometheus-client", "prometheus_client 0."),
        ("json", "`json` is a module of Python's own"),
        ("lambda", "`lambda` is a word of Python's own"),
        ("bentos", "`bentos` is also the folder bentos/"),
    ],
)
def test_a_name_that_is_taken(name: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "bentos").mkdir()
    printed = checked(tmp_path, name)
    (line,) = printed.splitlines()
    assert line.startswith(f"error: a model cannot be called {name}: ") and why in line
    assert "copier copy" in line


def test_a_name_that_is_free(tmp_path: Path) -> None:
    assert checked(tmp_path, "flight-delay", check=True) == ""


def test_setup_checks_before_it_installs_the_repo(repo: Path) -> None:
    """With an environment that is still to be made; nothing is run."""
    printed = run("make", "-n", "setup", cwd=repo)
    platform, check, own = (
        printed.index(part) for part in ("--group platform", "modelyard check-name", "-e .")
    )
    assert platform < check < own
