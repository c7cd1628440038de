"""The `modelyard` command finds each room's subcommands, and they all end in one way."""

import sys
import tomllib
import types
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, EntryPoints

import pytest
from support import ROOT, run

from modelyard import cli
from modelyard.cli.parser import Parser
from modelyard.documents import UserError
from modelyard.documents.version import VARIABLE

TRY = cli.Command("try", "Tries it.", "modelyard.tried.commands:main")


def main(arguments: Sequence[str]) -> int:
    parser = Parser(TRY)
    parser.add_argument("how", choices=["mistake", "missing", "broken", "ctrl-c", "how", "well"])
    how = parser.parse_args(arguments).how
    if how == "mistake":
        raise UserError("config.yaml: no such thing")
    if how == "missing":
        import not_installed  # pyrefly: ignore[missing-import]  # noqa: F401
    if how == "broken":
        import modelyard.not_there  # pyrefly: ignore[missing-import]  # noqa: F401
    if how == "ctrl-c":
        raise KeyboardInterrupt
    if how == "how":
        raise KeyboardInterrupt("run it again")
    return 3


@pytest.fixture
def one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """`modelyard try`, and a room that is not here."""
    for name in ("modelyard.tried", "modelyard.tried.commands"):
        module = types.ModuleType(name)
        module.__dict__.update(main=main, COMMANDS=[TRY])
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    entries = [
        EntryPoint("here", "modelyard.tried.commands:COMMANDS", cli.GROUP),
        EntryPoint("elsewhere", "modelyard.elsewhere.commands:COMMANDS", cli.GROUP),
    ]
    monkeypatch.setattr(cli, "entry_points", lambda group: EntryPoints(entries))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["try", "well"], 3, ""),
        (["try", "mistake"], 1, "error: config.yaml: no such thing\n"),
        (["try", "ctrl-c"], 130, "interrupted\n"),
        (["try", "how"], 130, "interrupted; run it again\n"),
        (["try", "missing"], 1, "error: this needs not_installed, which is not installed: "
         "pip install 'modelyard[tried]'\n"),
        (["try", "--bad"], 1, "usage: modelyard try [-h] {mistake,missing,broken,ctrl-c,how,well}\n"
         "error: the following arguments are required: how\n"),
        (["other"], 1, "error: no such command: other\n\nusage: modelyard COMMAND …\n\n"
         "  try         Tries it.\n\n"
         "`modelyard COMMAND --help` says more, `modelyard --version` which one this is.\n"),
    ],
)  # fmt: skip
def test_a_command_ends_with_its_code(
    arguments: list[str],
    code: int,
    said: str,
    one_command: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(arguments) == code
    assert capsys.readouterr().err == said


def test_a_module_of_the_platform_that_is_missing_is_a_fault_of_its_own(one_command: None) -> None:
    with pytest.raises(ModuleNotFoundError):
        cli.main(["try", "broken"])


def test_the_list_has_the_rooms_that_are_here(
    one_command: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert "  try         Tries it.\n" in listed
    assert cli.main([]) == 1
    assert capsys.readouterr().out == listed


def test_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(VARIABLE, "1.2.3")
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "1.2.3\n"


def test_each_command_has_a_name_of_its_own_and_can_be_loaded() -> None:
    found = [*cli.found_commands()]
    assert {command.name for command in found} >= {"build", "predict", "release", "score", "train"}
    assert len({command.name for command in found}) == len(found)
    for command in found:
        assert callable(cli._loaded(command.target)), command


def test_the_installed_command_has_all_rooms() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    installed = {entry.name: entry.value for entry in cli.entry_points(group=cli.GROUP)}
    assert installed == declared[cli.GROUP], "install it anew: make setup"


def test_a_list_of_the_commands_imports_nothing_that_takes_long() -> None:
    """`modelyard --help` and the names that a shell completes; 0.3 s of which Python has most."""
    heavy = {
        "argparse", "bentoml", "click", "dagster", "kubernetes", "numpy", "optuna", "polars",
        "pyarrow", "pydantic", "rich", "torch", "typer", "yaml",
    }  # fmt: skip
    code = (
        "import sys; from modelyard.cli import main; main(['--help']); "
        f"print(*(sys.modules.keys() & {heavy}))"
    )
    assert run(sys.executable, "-c", code, cwd=ROOT).splitlines()[-1] == ""
