"""The `modelyard` command finds each room's subcommands and ends with one message."""

import sys
import types
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint

import pytest

from modelyard import cli
from modelyard.documents import UserError


def run(arguments: Sequence[str]) -> int:
    if arguments == ["mistake"]:
        raise UserError("config.yaml: no such thing")
    if arguments == ["missing"]:
        import not_installed  # pyrefly: ignore[missing-import]  # noqa: F401
    if arguments == ["broken"]:
        import modelyard.not_there  # pyrefly: ignore[missing-import]  # noqa: F401
    if arguments == ["ctrl-c"]:
        raise KeyboardInterrupt
    return 3


@pytest.fixture(autouse=True)
def one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """`modelyard try`, and a room that is not here."""
    module = types.ModuleType("tried")
    module.__dict__.update(run=run, COMMANDS=[cli.Command("try", "Tries it.", "tried:run")])
    monkeypatch.setitem(sys.modules, "tried", module)
    module.__spec__ = ModuleSpec("tried", None)
    entries = [
        EntryPoint("here", "tried:COMMANDS", cli.GROUP),
        EntryPoint("elsewhere", "modelyard.elsewhere.x:COMMANDS", cli.GROUP),
    ]
    monkeypatch.setattr(cli, "entry_points", lambda group: entries)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["try"], 3, ""),
        (["try", "mistake"], 1, "error: config.yaml: no such thing\n"),
        (["try", "ctrl-c"], 130, ""),
        (["other"], 1, "error: no such command: other\n"),
    ],
)
def test_a_command_ends_with_its_code(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == code
    assert capsys.readouterr().err.startswith(said)


def test_a_package_that_is_not_installed_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["try", "missing"]) == 1
    assert "not_installed, which is not installed" in capsys.readouterr().err


def test_a_module_of_the_platform_that_is_missing_is_a_fault_of_its_own() -> None:
    with pytest.raises(ModuleNotFoundError):
        cli.main(["try", "broken"])


def test_the_list_has_the_rooms_that_are_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert "  try         Tries it.\n" in capsys.readouterr().out
    assert cli.main([]) == 1
