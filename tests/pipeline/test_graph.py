"""The standard graph of a model, against tests/pipeline/golden/graph.json (`make golden`)."""

import json
import os
from pathlib import Path
from typing import Any

from examples.flights.binary.model import project

GOLDEN = Path(__file__).parent / "golden" / "graph.json"


def shown() -> dict[str, Any]:
    """Of each asset, what a team sees in Dagster and a cluster makes of it."""
    graph = project.definitions()().resolve_asset_graph()
    found = {}
    for key in sorted(graph.materializable_asset_keys):
        node = graph.get(key)
        step = node.assets_def
        size = json.loads(step.op.tags.get("dagster-k8s/config", "{}"))
        found[key.to_user_string()] = {
            "after": sorted(parent.to_user_string() for parent in node.parent_keys),
            "group": node.group_name,
            "kinds": sorted(step.get_asset_spec(key).kinds),
            "monthly": node.partitions_def is not None,
            "step": step.op.name,
            "checks": {
                check.name: "blocking" if check.blocking else "warning"
                for check in step.check_specs
                if check.asset_key == key
            },
            "pod": size.get("container_config", {}).get("resources", {}).get("requests"),
            "described": bool(node.description),
        }
    return found


def test_the_standard_graph_is_the_golden_one() -> None:
    if os.environ.get("MODELYARD_GOLDEN") == "write":
        GOLDEN.write_text(json.dumps(shown(), indent=1) + "\n")
    assert shown() == json.loads(GOLDEN.read_text())
