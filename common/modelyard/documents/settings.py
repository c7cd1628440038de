"""YAML settings, read strictly: an unknown key or a wrong type is an error with its line."""

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from modelyard.documents.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


def load_settings(path: Path, model: type[Model]) -> Model:
    """Read a YAML file as `model`.

    Raises:
        UserError: the file is missing, is no YAML, or does not fit the model; each
            problem is one line, `path:line: key: what is wrong`.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    duplicate = _duplicate_key(root)
    if duplicate is not None:
        raise UserError(f"{path}:{duplicate.start_mark.line + 1}: {duplicate.value}: duplicate key")
    try:
        return model.model_validate(values if values is not None else {})
    except ValidationError as error:
        problems = [
            f"{path}:{line}: {name or 'document'}: " + e["msg"].removeprefix("Value error, ")
            for e in error.errors()
            for line, name in [_place(root, e["loc"])]
        ]
        raise UserError("\n".join(problems)) from None


def _duplicate_key(node: yaml.Node | None) -> yaml.Node | None:
    """PyYAML keeps the last of two equal keys; a settings file means neither."""
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                return key
            seen.add(key.value)
            children.append(value)
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    return next((found for child in children if (found := _duplicate_key(child))), None)


def _place(node: yaml.Node | None, location: tuple[int | str, ...]) -> tuple[int, str]:
    """The line (1-based) of the deepest node on the way to `location`, and the key's name.

    The tag by which pydantic chose among several models is part of the location, too, but
    not of the file: it is skipped.
    """
    line = node.start_mark.line + 1 if node else 1
    names = []
    for depth, part in enumerate(location, start=1):
        if isinstance(node, yaml.MappingNode):
            match = next(((k, v) for k, v in node.value if k.value == part), None)
            if match is None and depth < len(location):
                continue
            if match is not None:
                key, node = match
                line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line + 1
        names.append(str(part))
    return line, ".".join(names)
