"""`copier copy` by the bare command line: questions, validators, what is rendered."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from copier import run_copy
from support import copier, run

from modelyard.delivery.policy import Kubernetes, load_release

pytestmark = pytest.mark.xdist_group("copy")
NAMES = ("project_name=flight-delay", "owner=acme")


@pytest.fixture(scope="module")
def repo(render, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("copy") / "flight-delay")


def test_pins_name_the_commit_of_the_template(repo: Path, platform: Path) -> None:
    commit = run("git", "rev-parse", "HEAD", cwd=platform).strip()
    project = tomllib.loads((repo / "pyproject.toml").read_text())
    (pin,) = project["dependency-groups"]["platform"]
    assert pin.endswith(f"@ git+file://localhost{platform}@{commit}")
    assert (repo / "constraints.txt").read_text() == (platform / "constraints.txt").read_text()
    assert not (repo / "constraints.txt").is_symlink()
    for caller in (repo / ".github" / "workflows").glob("*.yml"):
        uses = re.findall(r"uses: (\S+)@(\S+)", caller.read_text())
        assert uses and all(revision == commit for _, revision in uses), caller


def test_no_jinja_is_left_over(repo: Path) -> None:
    names = run("git", "ls-files", cwd=repo).split()
    assert not [name for name in names if "{" in name or name.endswith(".jinja")]
    workflows = {n for n in names if n.startswith(".github/")}
    texts = {name: (repo / name).read_text() for name in set(names) - workflows}
    # GitHub's own expressions and Argo's parameters have braces, too.
    braces = [name for name, text in texts.items() if "{%" in text or re.search(r"\{\{ *_", text)]
    assert not braces


def test_the_version_served_is_the_highest_not_the_one_built_last(
    repo: Path, tmp_path: Path
) -> None:
    for version in ("1", "2", "10"):
        (tmp_path / ".modelyard" / "packages" / version).mkdir(parents=True)
    shutil.copy(repo / "Makefile", tmp_path)
    command = ("make", "-n", "serve", f"VENV={sys.prefix}")
    assert "bentoml serve flight-delay:10 " in run(*command, cwd=tmp_path)
    assert "bentoml serve flight-delay:2 " in run(*command, "VERSION=2", cwd=tmp_path)


@pytest.mark.parametrize("task", ["train", "predict"])
def test_months_are_passed_on(task: str, repo: Path) -> None:
    command = ("make", "-n", task, f"VENV={sys.prefix}")
    assert "--partitions" not in run(*command, cwd=repo)
    assert "--partitions 2013-01...2013-02" in run(
        *command, "PARTITIONS=2013-01...2013-02", cwd=repo
    )


def test_answers_are_kept_for_updates(repo: Path, platform: Path) -> None:
    answers = yaml.safe_load((repo / ".copier-answers.yml").read_text())
    assert answers["_src_path"] == str(platform)
    assert answers["_commit"] == "v0.1.0"
    assert answers["canary_steps"] == [5, 25, 50]
    assert "package_name" not in answers


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("project_name=Flight_Delay", "lower-case letters"),
        ("project_name=" + "a" * 41, "40 characters"),
        ("owner=not a name", "GitHub name"),
        ("description=", "not empty"),
        ('description=say "so"', "without double quotes"),
        ("task=clustering", "Invalid choice"),
        ("registry=https://ghcr.io/acme", "without a scheme"),
        ("namespace_staging=Staging_", "namespace has"),
        ("namespace_staging=flight-delay-production", "a namespace each"),
        ("gateway=gateway", "Give namespace/name"),
        ("gateway=Edge/public", "Give namespace/name"),
        ("metrics_source=nginx", "Invalid choice"),
        ("proxies=[]", "A list of namespaces"),
        ("proxies=envoy-gateway-system", "A list of namespaces"),
        ("proxies=[Edge]", "Neither a namespace nor an address range (10.0.0.0/16): Edge"),
        ("proxies=[edge, 10.0.0.1]", "Neither a namespace nor an address range"),
        ("prometheus=prometheus:9090", "Give a URL"),
        ("prometheus=https://me:secret@prometheus", "without credentials"),
        ("scrapers={a: b}", "A list of namespaces"),
        ("scrapers=[a/b]", "Neither a namespace nor an address range (10.0.0.0/16): a/b"),
        ("monitor_labels=[release]", "Labels and their values"),
        ("monitor_labels={team: 1}", "are text; quote"),
        ("monitor_labels={a b: c}", "Not the name or the value"),
        ("monitor_labels={team: -a}", "Not the name or the value"),
        ("ranks=0", "Between 1 and"),
        ("canary_steps=[25, 5, 100]", "must rise"),
        ("canary_steps=[5, 500]", "100 at most"),
        ("canary_steps=[]", "whole numbers"),
        ("canary_steps=half", "whole numbers"),
        ("repository=modelyard", "owner/name"),
    ],
)
def test_an_answer_that_no_validator_accepts(
    answer: str, message: str, platform: Path, tmp_path: Path
) -> None:
    """In this process: the command line adds nothing but its start. It is tried below."""
    given = dict(each.split("=", 1) for each in (*NAMES, answer))
    with pytest.raises(ValueError) as failure:
        run_copy(str(platform), tmp_path / "x", given, defaults=True, quiet=True)
    assert message in str(failure.value)
    assert not (tmp_path / "x").exists(), "nothing may be half-written"


@pytest.mark.parametrize(
    ("answers", "settings"),
    [
        (
            {},
            {
                "gateway": "gateway-system/gateway",
                "proxies": ("envoy-gateway-system",),
                "prometheus": "http://kube-prometheus-stack-prometheus.monitoring.svc:9090",
                "scrapers": ("monitoring",),
                "monitor_labels": {"release": "kube-prometheus-stack"},
                "source": "envoy-gateway",
            },
        ),
        (
            {"gateway": "edge/public", "metrics_source": "servers"},
            {"gateway": "edge/public", "proxies": ("edge",), "source": "servers"},
        ),
        (
            {
                "proxies": "[edge, 10.20.0.0/16, 'fd00::/8']",
                "prometheus": "https://prometheus.example.com/team",
                "scrapers": "[192.168.7.0/24]",
                "monitor_labels": '{team: "1", app.example.com/monitored: ""}',
            },
            {
                "proxies": ("edge", "10.20.0.0/16", "fd00::/8"),
                "prometheus": "https://prometheus.example.com/team",
                "scrapers": ("192.168.7.0/24",),
                "monitor_labels": {"team": "1", "app.example.com/monitored": ""},
            },
        ),
        ({"monitor_labels": "{}"}, {"monitor_labels": {}}),
    ],
)
def test_where_the_cluster_has_what_a_release_needs(
    answers: dict[str, str], settings: dict[str, object], platform: Path, tmp_path: Path
) -> None:
    """What is answered is what the policy's own strict reader takes, in both environments."""
    given = {"project_name": "flight-delay", "owner": "acme"} | answers
    run_copy(str(platform), tmp_path / "x", given, defaults=True, quiet=True)
    release = load_release(tmp_path / "x" / "argo" / "release.yaml")
    for name in ("staging", "production"):
        place = release.environments[name]
        assert isinstance(place, Kubernetes)
        known = dict(place) | {"source": place.metrics.source}
        assert {key: known[key] for key in settings} == settings


def test_a_relative_template_path_is_refused(platform: Path, tmp_path: Path) -> None:
    (tmp_path / "modelyard").symlink_to(platform)
    given = [part for name in NAMES for part in ("--data", name)]
    printed = copier("copy", "--defaults", *given, "modelyard", "x", cwd=tmp_path, check=False)
    assert "relative path" in printed and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("source", "url"),
    [
        ("gh:acme/modelyard", "https://github.com/acme/modelyard.git"),
        ("https://github.com/acme/modelyard.git", "https://github.com/acme/modelyard.git"),
        ("git+https://git.acme.example/ml/yard", "https://git.acme.example/ml/yard"),
        ("git@github.com:acme/modelyard.git", "ssh://git@github.com/acme/modelyard.git"),
        ("gl:acme/modelyard.git", "https://gitlab.com/acme/modelyard.git"),
        ("/srv/modelyard", "file://localhost/srv/modelyard"),
        ("file:///srv/modelyard", "file://localhost/srv/modelyard"),
    ],
)
def test_the_platform_is_installed_from_where_the_template_came(
    source: str, url: str, platform: Path
) -> None:
    """The question's own expression, with Copier's own Jinja environment."""
    from copier._main import Worker

    questions = yaml.safe_load((platform / "copier.yml").read_text())
    with Worker(src_path=str(platform), defaults=True) as worker:
        expression = worker.jinja_env.from_string(questions["platform_url"]["default"])
        assert expression.render(_copier_answers={"_src_path": source}).strip() == url


def test_every_template_file_is_tracked(platform: Path) -> None:
    """A .gitignore inside template/ must not swallow what a model repo needs."""
    ignored = subprocess.run(
        ["git", "status", "--short", "--ignored", "template"],
        cwd=platform, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert not ignored
