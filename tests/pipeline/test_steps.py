"""Dagster on Kubernetes: the sizes of steps arrive, and the instance file loads."""

import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher import RunLauncher
from support import run

from modelyard.pipeline.orchestration.executor import STEPS, executor, pod

pytestmark = pytest.mark.xdist_group("steps")
SHOW = """
import json
from flight_delay.model import defs
loaded = defs()
graph = loaded.resolve_asset_graph()
tags = {
    key.to_user_string(): graph.get(key).assets_def.op.tags.get("dagster-k8s/config")
    for key in graph.materializable_asset_keys
}
print(json.dumps({"executor": loaded.executor.name, "tags": tags}))
"""


def shown(repo: Path, **variables: str) -> dict:
    variables |= {"PYTHONPATH": str(repo / "src"), "DAGSTER_HOME": str(repo / ".dagster")}
    printed = run(sys.executable, "-c", SHOW, cwd=repo, check=True, **variables)
    return yaml.safe_load(printed.splitlines()[-1])


@pytest.mark.slow
def test_sizes_of_steps_arrive_in_the_definitions(repo: Path) -> None:
    here, there = shown(repo), shown(repo, **{STEPS: "kubernetes"})
    assert (here["executor"], there["executor"]) == ("in_process", "k8s")
    assert here["tags"] == there["tags"]
    container = yaml.safe_load(there["tags"]["features"])["container_config"]
    assert container["resources"]["requests"] == {"cpu": "2", "memory": "4Gi"}
    assert {"train_set", "weights", "evaluation", "best_configuration"} <= {
        name for name, tags in there["tags"].items() if tags
    }


def test_dg_checks_the_definitions_without_a_cluster(repo: Path) -> None:
    """With training in a cluster, too: nothing asks for one until a training starts."""
    config = repo / "config.yaml"
    before = config.read_text()
    block = "kubernetes: {namespace: a, image: b, storage: s3://c/d, pods: 2}\n"
    config.write_text(before.replace("kubernetes: null\n", block))
    try:
        printed = run(
            Path(sys.executable).with_name("dg"), "check", "defs", cwd=repo, check=True,
            PYTHONPATH=str(repo / "src"), DAGSTER_HOME=str(repo / ".dagster"), KUBECONFIG="/none",
        )  # fmt: skip
    finally:
        config.write_text(before)
    assert "loaded successfully" in printed


def test_pods_that_cannot_share_the_ranks(repo: Path) -> None:
    from modelyard.documents import UserError, load_settings
    from modelyard.pipeline.config.settings import Settings, TrainingSettings

    text = (
        "data: {months: {from: 2013-01, to: 2013-03}}\n"
        "split: {train: {from: 2013-01, to: 2013-01}, validation: {from: 2013-02, to: 2013-02},"
        " test: {from: 2013-03, to: 2013-03}}\ntraining: {ranks: 2}\n"
    )
    given = repo.parent / "config.yaml"
    for block, message in (
        ("pods: 4", "4 pods cannot share 2 ranks equally"),
        ("gpus: 1", "gpus: 1: a pod has 2 ranks, with a GPU each"),
    ):
        own = f"kubernetes: {{namespace: a, image: b, storage: s3://c/d, {block}}}\n"
        given.write_text(text + own)
        with pytest.raises(UserError, match=f"config.yaml:4: kubernetes: {message}"):
            load_settings(given, Settings[TrainingSettings])


def test_dagster_takes_the_sizes() -> None:
    from dagster_k8s.job import get_user_defined_k8s_config

    @dg.op(tags=pod(cpu="2", memory="4Gi")["op_tags"])
    def step() -> None: ...

    config = get_user_defined_k8s_config(step.tags)
    assert config.container_config["resources"]["limits"] == {"memory": "4Gi"}


def test_an_executor_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STEPS, "slurm")
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="local or kubernetes, not slurm"):
        executor()


@pytest.fixture
def instance(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """The rendered instance file, with a kubeconfig in place of a pod's own access."""
    for name in ("DAGSTER_POSTGRES_URL", "DAGSTER_NAMESPACE", "DAGSTER_IMAGE"):
        monkeypatch.setenv(name, "postgresql://u:p@db/dagster" if "URL" in name else "flights")
    cluster = "{name: c, cluster: {server: 'http://127.0.0.1:1'}}"
    (tmp_path / "kubeconfig").write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nusers: [{name: u, user: {}}]\n"
        f"contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nclusters: [{cluster}]\n"
    )
    text = (repo / "deploy" / "dagster.yaml").read_text()
    outside = f"load_incluster_config: false\n    kubeconfig_file: {tmp_path}/kubeconfig\n"

    def write(given: str = "") -> Path:
        changed = text.replace("  config:\n", f"  config:\n    {outside}{given}", 1)
        (tmp_path / "dagster.yaml").write_text(changed)
        return tmp_path

    return write


def test_the_instance_file_loads(instance: Callable[..., Path]) -> None:
    ref = InstanceRef.from_dir(str(instance()))
    assert ref.run_launcher_data and ref.storage_data
    launcher = ref.run_launcher_data.rehydrate(as_type=RunLauncher)
    assert type(launcher).__name__ == "K8sRunLauncher"
    assert "postgres" in str(ref.storage_data.config_dict)
    assert ref.settings["telemetry"] == {"enabled": False}
    assert f"{STEPS}=kubernetes" in launcher.env_vars  # pyrefly: ignore[missing-attribute]
    container = launcher.run_k8s_config["container_config"]  # pyrefly: ignore[missing-attribute]
    assert container["volume_mounts"][0]["mount_path"] == "/repo/.modelyard"


def test_a_mistake_in_the_instance_file_is_found(instance: Callable[..., Path]) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="jobs_namespace"):
        ref = InstanceRef.from_dir(str(instance("    jobs_namespace: here\n")))
        assert ref.run_launcher_data
        ref.run_launcher_data.rehydrate(as_type=RunLauncher)
