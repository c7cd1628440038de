"""BentoML's OpenAPI document with more paths, which it has no way to add.

Relies on: what `openapi_spec` gives being asked for `asdict()` and dumped as YAML.
Upstream: mounted apps are in the document since bentoml/BentoML#5346; an app in front is not.
"""

from typing import Any

import yaml


class Document(dict[str, Any]):
    """What BentoML wants of an OpenAPI document: `asdict`, and to be dumped as YAML."""

    def asdict(self) -> dict[str, Any]:
        return dict(self)


yaml.add_representer(Document, lambda dumper, document: dumper.represent_dict(document))
