"""argo/release.yaml: what is refused, and at which line."""

from pathlib import Path

import pytest

from modelyard.delivery.policy import (
    Kubernetes,
    Local,
    Policy,
    environment,
    load_release,
    project_name,
)
from modelyard.documents import UserError

GOOD = """\
version: 3
image: ghcr.io/acme/flight-delay
environments:
  local:
    platform: local
    policy:
      alpha: 0.05
      interval: 250ms
      canary:
        steps: [5, 25, 100]
        max_duration: 2m
  staging:
    platform: kubernetes
    namespace: flights
    host: flights.internal
"""


def load(tmp_path: Path, text: str):
    path = tmp_path / "release.yaml"
    path.write_text(text)
    return load_release(path)


def test_a_good_policy_with_units(tmp_path: Path) -> None:
    release = load(tmp_path, GOOD)
    local = environment(release, "local")
    assert isinstance(local, Local) and local.port == 8080
    assert local.policy.interval == 0.25 and local.policy.canary.max_duration == 120
    assert environment(release, "staging").policy.canary.steps == (5, 25, 50)


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        ("[5, 25, 100]", "[5, 25, 25, 100]", 9, "must rise"),
        ("[5, 25, 100]", "[5]\n        ramp: {harm_budget: 20}", 9, "steps and ramp exclude"),
        ("steps: [5, 25, 100]", "ramp: {harm_budget: 0}", 10, "greater than or equal to 1"),
        ("steps: [5, 25, 100]", "ramp: {harm_budget: .inf}", 10, "finite"),
        ("steps: [5, 25, 100]", "ramp: {budget: 20}", 10, "harm_budget"),
        ("[5, 25, 100]", "[5, 101]", 10, "less than or equal to 100"),
        ("max_duration: 2m", "max_duration: 2m\n      gates: {errors: {margin: 0}}", 12, "than 0"),
        ("[5, 25, 100]", "[0, 100]", 10, "greater than or equal to 1"),
        ("[5, 25, 100]", "[]", 9, "has no weight"),
        ("alpha: 0.05", "alpha: 0", 7, "greater than 0"),
        ("alpha: 0.05", "alpha: 1.5", 7, "less than 0.5"),
        ("interval: 250ms", "interval: 30", 8, "no duration; write it with its unit"),
        ("interval: 250ms", "interval: 3h", 6, "longer than a phase may last"),
        ("max_duration: 2m", "hold_weight: 5", 9, "unless on_inconclusive is hold"),
        ("max_duration: 2m", "max_duration: 500ms", 9, "longer than max_duration"),
        ("alpha: 0.05", "alpa: 0.05", 7, "alpa"),
        ("platform: local", "platform: mars", 4, "platform"),
        ("namespace: flights", "namespace: Flights!", 14, "pattern"),
        ("namespace: flights", "namespace: flights\n    cpu: much", 15, "cpu"),
        ("namespace: flights", "namespace: flights\n    memory: 1 GB", 15, "memory"),
        (
            "namespace: flights",
            "namespace: flights\n    policy: {interval: 1s}",
            12,
            "give 5s or more",
        ),
        ("platform: local", "platform: local\n    port: 99999", 6, "65535"),
        ("version: 3", "version: 0", 1, "greater than or equal to 1"),
        ("image: ghcr.io/acme/flight-delay", "image: ghcr.io/acme/x:3", 2, "pattern"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, old: str, new: str, line: int, what: str) -> None:
    with pytest.raises(UserError) as refusal:
        load(tmp_path, GOOD.replace(old, new))
    assert f"release.yaml:{line}: " in str(refusal.value)
    assert what in str(refusal.value)


def test_hold_weight_above_the_first_step(tmp_path: Path) -> None:
    held = "max_duration: 2m\n        on_inconclusive: hold\n        hold_weight: 10"
    with pytest.raises(UserError, match="an undecided candidate would gain traffic"):
        load(tmp_path, GOOD.replace("max_duration: 2m", held))


def test_two_local_environments(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only one can be local"):
        load(tmp_path, GOOD + "  laptop:\n    platform: local\n")


def test_an_unknown_environment(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no environment 'moon'; it has local, staging"):
        environment(load(tmp_path, GOOD), "moon")


def test_outside_of_a_model_repo(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="in the folder of a model repo"):
        project_name(tmp_path / "pyproject.toml")


@pytest.mark.parametrize("canary", [{"steps": [1, 50]}, {"ramp": {"harm_budget": 20}}])
def test_a_policy_goes_into_the_record_and_back(canary: dict) -> None:
    policy = Policy.model_validate({"interval": "250ms", "canary": canary})
    assert Policy.model_validate(policy.model_dump(mode="json")) == policy


def test_a_held_candidate_has_no_harm_budget(tmp_path: Path) -> None:
    ramp = "ramp: {harm_budget: 20}\n        on_inconclusive: hold\n        hold_weight: 1"
    with pytest.raises(UserError, match="hold_weight has no meaning under a ramp"):
        load(tmp_path, GOOD.replace("steps: [5, 25, 100]", ramp))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("proxies: []", "at least 1 item"),
        ("proxies: [Edge]", "'Edge' is neither a namespace"),
        ("proxies: [10.0.0.0]", "'10.0.0.0' is neither a namespace"),
        ("scrapers: [10.0.0.1/8]", "'10.0.0.1/8' is no range of addresses: 10.0.0.1/8 has host"),
        ("scrapers: 10.0.0.0/99", "is no range of addresses"),
        ("scrapers: a/b", "is no range of addresses"),
        ("prometheus: prometheus:9090", "is no URL of a server"),
        ("prometheus: http://prometheus:http", "is no URL of a server"),
        ("prometheus: https://me:secret@prometheus", "holds credentials"),
        ("gateway_url: http://10.0.0.1?a=b", "more than an address"),
        ("gateway: edge", "string_pattern|should match pattern"),
        ("monitor_labels: {a b: c}", "'a b' is no name of a Kubernetes label"),
        ("monitor_labels: {team: a b}", "team: 'a b' is no value of a Kubernetes label"),
        ("monitor_labels: {team: 1}", "valid string"),
        ("probe: perhaps", "valid boolean"),
    ],
)
def test_where_a_cluster_has_what_a_release_needs(tmp_path: Path, line: str, what: str) -> None:
    with pytest.raises(UserError, match=rf":16: .*({what})"):
        load(tmp_path, f"{GOOD}    {line}\n")


def test_one_namespace_needs_no_list(tmp_path: Path) -> None:
    release = load(tmp_path, f"{GOOD}    proxies: edge\n    scrapers: [a, 'fd00::/8']\n")
    place = release.environments["staging"]
    assert isinstance(place, Kubernetes)
    assert (place.proxies, place.scrapers) == (("edge",), ("a", "fd00::/8"))
