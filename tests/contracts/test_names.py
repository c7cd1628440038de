"""A name that one room writes and another reads is written once, in the documents."""

import ast
from pathlib import Path

from support import ROOT

from modelyard.documents import http, layout, metrics, package, prediction_log

ROOMS = ("dagster_project", "bentos", "argo")
SHARED = (http, layout, metrics, package, prediction_log)
ORDINARY = {"class", "endpoint", "inputs", "packages", "row", "score", "src", "time", "version"}
"""words that mean other things, too"""


def names() -> set[str]:
    found = {
        str(value)
        for module in SHARED
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str | Path)
    }
    return found - ORDINARY - {prediction_log.SUFFIX, prediction_log.REQUEST_ID}


def written(text: str) -> set[str]:
    """String and bytes constants of a module, without its documentation."""
    tree = ast.parse(text)
    nodes = [node for node in ast.walk(tree) if not isinstance(node, ast.Expr)]
    told = [child for node in nodes for child in ast.iter_child_nodes(node)]
    constants = [node.value for node in told if isinstance(node, ast.Constant)]
    return {
        each.decode("latin-1") if isinstance(each, bytes) else each
        for each in constants
        if isinstance(each, str | bytes)
    }


def test_shared_names_stand_in_the_documents_only() -> None:
    shared = names()
    assert {"/predict", "x-request-id", "model.pt2", ".modelyard"} <= shared
    again = {
        f"{path.relative_to(ROOT)}: {name}"
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if "commands" not in path.parts
        for name in written(path.read_text()) & shared
    }
    # A layout of another's: skopeo's folder of an image has a file of that name.
    assert again == {"argo/modelyard/delivery/publishing.py: manifest.json"}


def test_a_second_place_is_found() -> None:
    assert written('"""/predict"""\nROUTE = "/predict"') == {"/predict"}
    assert written('"""/predict"""') == set()
    assert written('lines = (b"x-request-id",)') == {"x-request-id"}
