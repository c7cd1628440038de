"""Changes single values of a YAML file and leaves every other byte of it alone."""

from typing import Any

import yaml

from modelyard.documents import UserError


def changed(text: str, block: str, values: dict[str, Any]) -> str:
    """`text` with `values` in the mapping `block`, comments and order as they were.

    Raises:
        UserError: there is no such block.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    found = {k.value: v for k, v in root.value} if isinstance(root, yaml.MappingNode) else {}
    mapping = found.get(block)
    if not isinstance(mapping, yaml.MappingNode) or not mapping.value:
        raise UserError(f"there is no block {block}: to change")
    nodes = {key.value: value for key, value in mapping.value}
    present = {name: value for name, value in values.items() if name in nodes}
    missing = {name: value for name, value in values.items() if name not in nodes}
    # From the end, so that the places of the others hold.
    text = _added(text, mapping, missing)
    for name in sorted(present, key=lambda name: nodes[name].start_mark.index, reverse=True):
        text = _replaced(text, nodes[name], present[name])
    return text


def _replaced(text: str, node: yaml.Node, value: Any) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    end = start + len(text[start:end].rstrip())  # a block's end is where the next one begins
    new, rest = _yaml(value), text[end:]
    line = rest.partition("\n")[0]
    if line.lstrip().startswith("#"):  # its comment stays in its column
        spaces = len(line) - len(line.lstrip())
        width = max(1, spaces - (len(new) - (end - start)))
        rest = " " * width + rest[spaces:]
    return text[:start] + new + rest


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1000)
    return text.removesuffix("...\n").strip()


def _added(text: str, mapping: yaml.MappingNode, values: dict[str, Any]) -> str:
    """`values` behind the last one of the mapping."""
    if not values:
        return text
    key, last = mapping.value[-1]
    end = last.start_mark.index + len(text[last.start_mark.index : last.end_mark.index].rstrip())
    if mapping.flow_style:
        new = "".join(f", {name}: {_yaml(value)}" for name, value in values.items())
        return text[:end] + new + text[end:]
    indent = " " * key.start_mark.column
    rest = text[end:]
    line, _, after = rest.partition("\n")
    new = "".join(f"{indent}{name}: {_yaml(value)}\n" for name, value in values.items())
    return f"{text[:end]}{line}\n{new}{after}"
