"""The freshly exported model against the one that serves: scores, metrics, the gate."""

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from modelyard.documents import (
    Signature,
    UserError,
    load_settings,
    stable_version,
    verify_package,
)
from modelyard.documents.files import replaced, sha256
from modelyard.documents.package import MODEL
from modelyard.pipeline.config.gate import GatePolicy
from modelyard.pipeline.data.content import stored_hash
from modelyard.pipeline.evaluation.gate import GateResult, compare
from modelyard.pipeline.evaluation.metrics import metrics
from modelyard.pipeline.evaluation.scoring import read_slice, read_target, score_dataset
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.tracking.registry import fetch, is_registered

RESULT = "evaluation.json"
SCORES = "scores.npy"


class Evaluation(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    metrics: dict[str, float]
    """of the new model on the frozen test set"""
    test_hash: str
    rows: int
    model_hash: str
    """SHA-256 of `model.pt2`, which was evaluated"""
    champion: int | None
    """the version that it was compared with"""
    gate: GateResult


def evaluate(workspace: Workspace, signature: Signature, policy: GatePolicy) -> Evaluation:
    """Score the frozen test set with `model.pt2` and hold it against the champion.

    The champion's (`find_champion`) package scores the same rows again, so that both are
    compared in pairs, whatever test set it was made with.

    Raises:
        UserError: the champion's package is missing or changed, its target or classes are
            others, or it needs inputs that the test set no longer has.
    """
    test = workspace.dataset("test")
    target = read_target(test, signature)
    score = score_dataset(workspace.evaluation / MODEL, signature, test)
    champion, note = find_champion(workspace)
    old = None
    if champion is not None:
        old, note = _champion(workspace, champion, signature, test)
    columns = {name: read_slice(test, name) for name in policy.slices}
    gate = compare(signature.task, target, old, score, columns, policy, signature.classes)
    found = Evaluation(
        metrics=metrics(signature.task, target, score, signature.classes),
        test_hash=stored_hash(test),
        model_hash=sha256(workspace.evaluation / MODEL),
        rows=len(target),
        champion=champion,
        gate=gate.model_copy(update={"reason": gate.reason + note}),
    )
    with replaced(workspace.evaluation / SCORES) as new:
        with new.open("wb") as file:
            np.save(file, score)
    with replaced(workspace.evaluation / RESULT) as new:
        new.write_text(found.model_dump_json(indent=1))
    return found


def read_evaluation(workspace: Workspace) -> tuple[Evaluation, np.ndarray]:
    """What `evaluate` found, and the new model's scores [N] or [N, classes].

    Raises:
        UserError: the model has not passed the gate, or model or test set are others than
            those of the evaluation. Dagster runs what is selected, so an asset can be asked
            for past a failed check.
    """
    folder = workspace.evaluation
    evaluation = Evaluation.model_validate_json((folder / RESULT).read_bytes())
    for what, now, then in (
        ("model", sha256(folder / MODEL), evaluation.model_hash),
        ("test set", stored_hash(workspace.dataset("test")), evaluation.test_hash),
    ):
        if now != then:
            raise UserError(
                f"the {what} is another than the evaluated one; materialise evaluation first"
            )
    if not evaluation.gate.passed:
        raise UserError(f"the model did not pass the gate: {evaluation.gate.reason}")
    return evaluation, np.load(folder / SCORES)


class _Desired(BaseModel):
    """Of argo/release.yaml, what Git says is in production; the delivery room checks the rest."""

    version: int = Field(ge=1)


def find_champion(workspace: Workspace) -> tuple[int | None, str]:
    """The version that a challenger must not be worse than.

    The stable version of the release records; where nothing was released from this folder
    (a fresh clone, CI), `version` of argo/release.yaml, whose package is fetched if need be.

    Returns:
        (the version, ""), or (None, why there is none).

    Raises:
        UserError: the registry cannot be asked, or argo/release.yaml cannot be read.
    """
    stable = stable_version(workspace.releases)
    if stable is not None:
        return stable, ""
    release = workspace.root / "argo" / "release.yaml"
    if not release.exists():
        return None, ": nothing was released from here, and there is no argo/release.yaml"
    desired = load_settings(release, _Desired).version
    name = workspace.project()["name"]
    if not workspace.registered(desired).exists():
        if not is_registered(workspace, name, desired):
            return None, (
                f": nothing was released from here, and version {desired} of argo/release.yaml "
                "is not registered"
            )
        fetch(workspace, name, desired)
    return desired, ""


def _champion(
    workspace: Workspace, version: int, signature: Signature, test: Path
) -> tuple[np.ndarray, str]:
    package = workspace.registered(version)
    if not package.exists():
        raise UserError(
            f"the champion, version {version} (the stable one of {workspace.releases}), has no "
            f"package in {package}; take it from the registry again: "
            f"`modelyard fetch {version}`"
        )
    manifest, old, _ = verify_package(package)
    if (old.task, old.target, old.classes) != (signature.task, signature.target, signature.classes):
        raise UserError(
            f"the champion, version {version}, predicts {old.target!r} {list(old.classes)}, the "
            f"new model {signature.target!r} {list(signature.classes)}; two such models cannot "
            "be compared: make a new model repo for a new target"
        )
    try:
        score = score_dataset(package / MODEL, old, test)
    except UserError as error:
        raise UserError(
            f"the champion, version {version}, cannot score the test set: {error}; "
            "keep giving its inputs in features.py until it is replaced"
        ) from None
    same = manifest.test_hash == stored_hash(test)
    return score, "" if same else (
        f"; version {version} was made with another test set and scored this one again, "
        "rows of which it may have learnt from"
    )
