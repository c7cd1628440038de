"""The steps of a release in a small world: what comes next, and an approval that is asked for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from argo.api_server import ApiServer, stand_in
from argo.entry import modelyard
from argo.rendered import MODEL
from delivery.world import POLICY, World, controller, released

from modelyard.delivery.cluster.client import Cluster
from modelyard.delivery.commands.steps import following, hand_on, take
from modelyard.delivery.local.record import FileRecord
from modelyard.delivery.policy import Kubernetes
from modelyard.delivery.ports import Routes
from modelyard.delivery.release.controller import Controller, Unchanged
from modelyard.delivery.release.state import Provenance
from modelyard.delivery.step_interface import OUTPUTS_VARIABLE, Next, StepName
from modelyard.documents import UserError

PLACE = Kubernetes(platform="kubernetes", namespace="production", host="a.example.com")
ASKING = PLACE.model_copy(update={"approval": True})
NOBODY = Provenance()


@pytest.fixture
def first(tmp_path: Path) -> Controller:
    """Nothing was ever released."""
    world = World()
    world.routes, world.running = Routes(stable=None), set()
    record = FileRecord(tmp_path)
    record.folder.mkdir(parents=True)
    return controller(world, record)


@pytest.fixture
def second(tmp_path: Path) -> Controller:
    """Version 1 serves."""
    released(tmp_path)
    return controller(World(), FileRecord(tmp_path))


def test_a_first_version_is_promoted_by_its_deployment(first: Controller) -> None:
    state = take(StepName.deploy, first, 1, PLACE, NOBODY)
    assert (state.decision, following(state, PLACE)) == ("bootstrapped", Next.done)


def test_a_first_version_waits_for_an_approval_that_is_asked_for(first: Controller) -> None:
    state = take(StepName.deploy, first, 1, ASKING, NOBODY)
    assert (state.phase, following(state, ASKING)) == ("deploy", Next.approve)
    world = first.ports.router
    assert isinstance(world, World) and world.routes.candidate is None, "nobody is sent to it yet"
    with pytest.raises(UserError, match="step promote needs --workflow"):
        take(StepName.promote, first, 1, ASKING, NOBODY)


def test_another_version_is_compared_in_steps(second: Controller) -> None:
    state = take(StepName.deploy, second, 2, PLACE, NOBODY)
    assert (state.phase, following(state, PLACE)) == ("deploy", Next.compare)
    assert take(StepName.shadow, second, 2, PLACE, NOBODY).phase == "shadow"
    state = take(StepName.canary, second, 2, PLACE, NOBODY)
    assert (state.phase, state.weight) == ("canary", POLICY.canary.steps[-1]), "all weights"
    state = take(StepName.promote, second, 2, PLACE, NOBODY)
    assert (state.decision, following(state, PLACE)) == ("promoted", Next.done)


@pytest.mark.parametrize("name", [n for n in StepName if n is not StepName.rollback])
def test_the_stable_version_needs_no_step(second: Controller, name: StepName) -> None:
    """Whatever was released since: as where the way back is merged."""
    take(StepName.deploy, second, 2, PLACE, NOBODY)
    second.roll_back("asked for")
    with pytest.raises(Unchanged, match="version 1 is the stable version already; it serves"):
        take(name, second, 1, PLACE, NOBODY)


def test_another_policy_in_the_middle_decides_nothing_and_can_be_rolled_back(
    second: Controller,
) -> None:
    """As where the object in the namespace was changed meanwhile."""
    for name in (StepName.deploy, StepName.shadow):
        take(name, second, 2, PLACE, NOBODY)
    policy = POLICY.model_copy(update={"alpha": 0.02})
    for name in (StepName.deploy, StepName.shadow, StepName.canary, StepName.promote):
        other = Controller(second.ports, policy)
        with pytest.raises(UserError, match="the policy is not the one that release"):
            take(name, other, 2, PLACE, NOBODY)
    state = second.last()
    assert state is not None and state.phase == "shadow"
    ended = Controller(second.ports, policy).roll_back("asked for")
    assert ended is not None and (ended.decision, ended.stable) == ("rolled_back", 1)


def test_a_version_that_nobody_deployed(second: Controller) -> None:
    with pytest.raises(UserError, match="no release of version 2 has begun: run step deploy"):
        take(StepName.shadow, second, 2, PLACE, NOBODY)


def test_outputs_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OUTPUTS_VARIABLE, raising=False)
    hand_on(Next.compare, ASKING)  # to nobody
    folder = tmp_path / "outputs"
    monkeypatch.setenv(OUTPUTS_VARIABLE, str(folder))
    hand_on(Next.compare, ASKING)
    found = {path.name: path.read_text() for path in folder.iterdir()}
    steps, longest = len(ASKING.policy.canary.steps), ASKING.policy.canary.max_duration
    assert int(found.pop("deadline")) == steps * longest + 300
    assert found == {"next": "compare", "approval": "true"}


# --- a person's approval --------------------------------------------------------------


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with stand_in(tmp_path) as server:
        yield server


def submitted(api: ApiServer, phase: str) -> str:
    """A workflow whose node `approve` is in this phase; its name."""
    node = {"displayName": "approve", "type": "Suspend", "phase": phase}
    api.workflow = {"phase": "Running", "nodes": {"1": node}}
    workflow: dict[str, Any] = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow"}
    made = Cluster("production").create(workflow | {"metadata": {"generateName": "v2-"}})
    assert made is not None
    return made["metadata"]["name"]


def proven(second: Controller) -> None:
    for name in (StepName.deploy, StepName.shadow, StepName.canary):
        take(name, second, 2, ASKING, NOBODY)


@pytest.mark.parametrize("phase", ["Running", "Failed", "Skipped", "Omitted"])
def test_what_nobody_approved_is_not_promoted(
    second: Controller, api: ApiServer, phase: str
) -> None:
    """Whatever order the nodes were run in."""
    proven(second)
    name = submitted(api, phase)
    with pytest.raises(UserError, match=f"nobody has resumed the node approve of workflow {name}"):
        take(StepName.promote, second, 2, ASKING, Provenance(workflow=name))
    with pytest.raises(UserError, match="nobody has resumed"):
        take(StepName.promote, second, 2, ASKING, Provenance(workflow="v2-another"))
    state = second.last()
    assert state is not None and (state.phase, state.stable) == ("canary", 1)


def test_what_a_person_approved_is_promoted(second: Controller, api: ApiServer) -> None:
    proven(second)
    given = Provenance(workflow=submitted(api, "Succeeded"))
    assert take(StepName.promote, second, 2, ASKING, given).decision == "promoted"
    # Tried again when the workflow is gone, it is done already.
    assert take(StepName.promote, second, 2, ASKING, NOBODY).decision == "promoted"


def test_a_release_in_one_go_waits_for_nobody() -> None:
    done = modelyard(MODEL, "release", "run", "--env", "production")
    assert done.returncode == 1
    assert "use `modelyard release submit --env production`" in done.stderr
