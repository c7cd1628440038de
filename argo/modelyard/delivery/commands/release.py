"""`modelyard release …`: brings a version to 100 % of an environment's traffic, or back."""

import hashlib
import json
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TextIO

import typer

from modelyard.cli import exit_on_sigterm, installed
from modelyard.delivery.commands.steps import asks_for_approval, following, hand_on, take
from modelyard.delivery.evidence.looks import Health
from modelyard.delivery.manifests.render import submitted
from modelyard.delivery.policy import (
    DIGEST,
    RELEASE_FILE,
    Kubernetes,
    Local,
    Release,
    environment,
    environment_name,
    load_policy,
    load_release,
    project_name,
)
from modelyard.delivery.ports import Ports
from modelyard.delivery.release.controller import Controller, Unchanged
from modelyard.delivery.release.shares import Kept
from modelyard.delivery.release.state import Provenance, State
from modelyard.delivery.reporting.summary import Summary, summary
from modelyard.delivery.step_interface import CHANGED, EXIT, Next, StepName
from modelyard.documents import ReleaseEvent, UserError
from modelyard.documents.record import Changed

release_app = typer.Typer(
    help="Bring a version to 100 % of an environment's traffic, or back.", no_args_is_help=True
)
Env = Annotated[str, typer.Option("--env", help="Environment of argo/release.yaml.")]
OnlyEnv = Annotated[
    str | None,
    typer.Option("--env", help="Environment; may be left out where there is only one."),
]
Candidate = Annotated[
    str | None,
    typer.Option(help="`latest` or a version. Default: `version` of argo/release.yaml."),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout; progress on stderr.")
]


@release_app.command()
def run(
    env: Env,
    candidate: Candidate = None,
    traffic: Annotated[
        str | None,
        typer.Option(help="replay:PATH: send these rows (Parquet or JSON-lines) meanwhile."),
    ] = None,
    as_json: Json = False,
) -> None:
    """A whole release; one that was cut off goes on.

    Exit codes: 0 promoted or bootstrapped, 2 rolled back, 3 held as inconclusive, 1 error.
    """
    from modelyard.delivery.reporting.terminal import Progress

    policy, place = _place(env)
    if asks_for_approval(place):
        raise UserError(
            f"environments.{env} has `approval: true`: only a workflow waits for a person; "
            f"use `modelyard release submit --env {env}`"
        )
    version = _version(policy, place, candidate)
    clients = None
    if isinstance(place, Local):
        from modelyard.delivery.local.replay import Replay, Watch, read_traffic

        url = f"http://127.0.0.1:{place.port}"
        clients = Replay(url, read_traffic(traffic), place.replay_rate) if traffic else Watch(url)
    elif traffic:
        raise UserError(f"--traffic replays rows in a local environment only; {env} is none")
    ports = _ports(policy, env, place)
    title = f"release of {project_name()} version {version} to {env}"
    with ports.record.lock(), _ctrl_c(), Progress(title, _stream(as_json)) as progress:
        controller = Controller(ports, place.policy, progress.follow, clients)
        try:
            given = _provenance(policy.for_version(version), place)
            state = _to_the_end(controller, controller.open(version, given))
        except Unchanged as same:
            _print_unchanged(str(same), version, as_json)
            return
        finally:
            if clients:
                clients.stop()
    result = _tell(env, _events(ports, state.release), as_json)
    raise typer.Exit(EXIT[result.decision])


@release_app.command()
def step(
    name: Annotated[StepName, typer.Argument(help="How far to go.")],
    env: OnlyEnv = None,
    candidate: Candidate = None,
    digest: Annotated[
        str | None, typer.Option(help="Of the candidate's image; empty: by its tag.")
    ] = None,
    workflow: Annotated[
        str | None, typer.Option(help="The Argo workflow that this is a step of.")
    ] = None,
) -> None:
    """One step of a release, for a workflow engine; a step that is done already does nothing.

    deploy, shadow, canary, promote, in this order. Only deploy begins a release; it promotes
    a first version, which has nothing to be compared with. A step that breaks or is ended leaves
    the release as it is, to be tried again; rollback ends it, and does nothing once it is
    decided. `watch` looks on, without going further, while the workflow waits for a person.
    deploy writes what comes next to the folder MODELYARD_OUTPUTS, if that is set.
    Exit codes as of `run`, with 0 for a step that is done, so also of a version that is stable
    already, and 4 where the record or the policy was changed by hand: to try again does not help.
    rollback exits 0; with 3 if users stay, since no other version could answer them.
    """
    from modelyard.delivery.reporting.terminal import Progress

    asked, env, place = _asked(env, candidate, digest)
    version, given = asked.version, _provenance(asked, place, workflow)
    ports = _ports(asked, env, place)
    title = f"release of {project_name()} version {version} to {env}: {name.value}"
    print(f"{RELEASE_FILE}: sha256 {given.policy_hash}", flush=True)
    # A pod that is asked to go lets go of the lock; its next try goes on.
    with exit_on_sigterm(), ports.record.lock(), Progress(title, sys.stdout) as progress:
        controller = Controller(ports, place.policy, progress.follow)
        if name is StepName.rollback:
            raise typer.Exit(_go_back(controller, version))
        try:
            state = take(name, controller, version, place, given)
        except Unchanged as same:
            print(same)
            state = None
        except Changed as error:
            print(error, file=sys.stderr)
            raise typer.Exit(CHANGED) from None
    if name is StepName.deploy:
        hand_on(following(state, place) if state else Next.done, place)
    raise typer.Exit(EXIT[state.decision] if state else 0)


@release_app.command()
def adopt(
    env: Env,
    version: Annotated[int, typer.Option(min=1, help="The version that is to be stable.")],
) -> None:
    """Say that a version which serves is the stable one, where the record was lost or broken.

    All users get it, if they do not yet. Refused where the record says what is stable, and of a
    version that has no server that is ready. Records that can't be read are kept beside the others.
    """
    from modelyard.delivery.reporting.terminal import Progress

    policy, place = _place(env)
    ports = _ports(policy, env, place)
    title = f"adopting version {version} of {project_name()} in {env}"
    with ports.record.lock(), Progress(title, sys.stdout) as progress:
        try:
            aside = Controller(ports, place.policy, progress.follow).adopt(version)
        except Unchanged as same:
            print(same)
            return
    for each in aside:
        print(f"set aside: {each}")


@release_app.command("write-back")
def write_back(env: OnlyEnv = None, candidate: Candidate = None) -> None:
    """Push a branch with the way back and the evidence, unless the version was promoted.

    Into the `repository` of argo/release.yaml, never to its main branch. Once done it does
    nothing. Credentials: files in the folder MODELYARD_GIT_CREDENTIALS (`token`, or
    `ssh-privatekey` and `known_hosts`), else git's own.
    """
    from modelyard.delivery.write_back import write_back

    asked, env, place = _asked(env, candidate)
    version, ports = asked.version, _ports(asked, env, place)
    found = [r for r in ports.record.releases() if r[0].candidate == version]
    if not found:
        print(f"no release of version {version} has begun: there is nothing to write back")
        return
    print(write_back(asked.repository, env, found[-1]))


@release_app.command()
def submit(env: Env) -> None:
    """Submit the workflow that releases the desired version, and follow it to its end.

    To the Argo server of ARGO_SERVER (with ARGO_TOKEN), else to the cluster's API. Ctrl-C ends
    the following only. Exit codes as of `run`.
    """
    from modelyard.delivery.cluster.submit import follow, workflows

    policy, place = _place(env)
    if not isinstance(place, Kubernetes):
        raise UserError(f"{env} is no Kubernetes environment: use `modelyard release run`")
    where = workflows(place.namespace)
    name = where.create(submitted(policy, env, project_name()))
    print(f"{name} in {place.namespace} releases version {policy.version}", flush=True)
    try:
        code = follow(where, name, lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        print(f"not followed any more; the release goes on: argo -n {place.namespace} watch {name}")
        raise typer.Exit(1) from None
    decisions = {0: "it serves", 2: "rolled back", 3: "held", 1: "not promoted"}
    print(f"version {policy.version}: {decisions[code]}")
    raise typer.Exit(code)


@release_app.command()
def status(
    env: Env = "local",
    as_json: Json = False,
) -> None:
    """What was released, and what serves now.

    Where a record was edited: what serves, and exit code 1.
    """
    from rich.console import Console

    from modelyard.delivery.reporting.status import show, status_of

    policy, place = _place(env)
    ports = _ports(policy, env, place)
    local = isinstance(place, Local)
    releases, unreadable = [], None
    try:
        Controller(ports, place.policy).last()
        releases = ports.record.releases()
    except Changed as error:
        unreadable = error
    found = status_of(
        env,
        releases,
        {v: ports.runtime.health(v) for v in sorted(ports.runtime.versions())},
        _envoy(place) if local else None,
        f"http://127.0.0.1:{place.port}" if local else None,
        ports.router.serving(),
        str(unreadable) if unreadable else None,
    )
    if as_json:
        print(json.dumps(found.document()))
    else:
        show(found, Console(width=None if sys.stdout.isatty() else 160), time.time())
    if unreadable:
        raise unreadable


@release_app.command()
def stop(env: Env) -> None:
    """End the local data plane: Envoy and all servers. The records stay."""
    from modelyard.delivery.local.data_plane import DataPlane
    from modelyard.delivery.local.record import FileRecord

    _, place = _place(env)
    if not isinstance(place, Local):
        raise UserError(f"{env} is no local environment; scale its Deployments instead")
    with FileRecord().lock():
        DataPlane.for_environment(project_name(), place).shut_down()
    print(f"{env}: stopped")


@release_app.command()
def report(
    output: Annotated[
        Path | None,
        typer.Option(help="HTML file; by default .modelyard/report.html, or report-ENV.html."),
    ] = None,
    env: Env = "local",
    last: Annotated[
        int, typer.Option(min=1, help="Releases with pictures; the older ones have a line each.")
    ] = 10,
) -> None:
    """All releases as one self-contained page with pictures."""
    from modelyard.delivery.reporting.html import write_report

    policy, place = _place(env)
    records = _ports(policy, env, place).record.releases()
    name = "report.html" if isinstance(place, Local) else f"report-{env}.html"
    page = output or Path(".modelyard") / name
    write_report(page, project_name(), env, records, last)
    print(page)


def _place(env: str) -> tuple[Release, Local | Kubernetes]:
    policy = load_release()
    return policy, environment(policy, env)


def _asked(
    env: str | None, candidate: str | None, digest: str | None = None
) -> tuple[Release, str, Local | Kubernetes]:
    """What a step is to release, its environment's name and what that is.

    Raises:
        UserError: an option is no such thing, or one is missing.
    """
    policy = load_policy()
    env = environment_name(policy, env)
    place = environment(policy, env)
    version = policy.version if candidate is None else _number(place, candidate)
    if version is None:
        raise UserError(f"{RELEASE_FILE} asks for no version: give --candidate")
    if digest and not re.match(DIGEST, digest):
        raise UserError(f"--digest {digest}: give sha256: and 64 digits, as the registry does")
    return policy.for_version(version, digest), env, place


def _provenance(
    asked: Release, place: Local | Kubernetes, workflow: str | None = None
) -> Provenance:
    digest = asked.digest if isinstance(place, Kubernetes) else None
    content = RELEASE_FILE.read_bytes()
    return Provenance(digest, hashlib.sha256(content).hexdigest(), workflow or None)


def _ports(policy: Release, env: str, place: Local | Kubernetes) -> Ports:
    if isinstance(place, Local):
        from modelyard.delivery.local.ports import local_ports

        return local_ports(project_name(), place)
    from modelyard.delivery.cluster.ports import kubernetes_ports
    from modelyard.delivery.manifests.render import target_of

    return kubernetes_ports(target_of(policy, env, project_name()), place)


def _version(policy: Release, place: Local | Kubernetes, candidate: str | None) -> int:
    return policy.version if candidate is None else _number(place, candidate)


def _number(place: Local | Kubernetes, candidate: str) -> int:
    if candidate == "latest":
        if not isinstance(place, Local):
            raise UserError("--candidate latest: give the version; only local Bentos are listed")
        from modelyard.delivery.local.folders import latest

        return latest(project_name())
    if not candidate.isdigit() or int(candidate) < 1:
        raise UserError(f"--candidate {candidate}: give `latest` or a version number")
    return int(candidate)


def _to_the_end(controller: Controller, state: State) -> State:
    try:
        return controller.run(state)
    except KeyboardInterrupt:
        ended = controller.last()
        if ended is None or ended.decision is None:
            print("interrupted twice: run the same again to end it", file=sys.stderr)
            raise
        where = {
            "rolled_back": "nobody is served: it was the first version"
            if ended.stable is None
            else "users are served by stable again",
        }.get(ended.decision, f"version {ended.candidate} was {ended.decision} by then")
        print(f"interrupted: {where}", file=sys.stderr)
        return ended


def _envoy(place: Local) -> Health:
    from modelyard.delivery.local.data_plane import DataPlane

    return DataPlane.for_environment(project_name(), place).envoy.health()


def _go_back(controller: Controller, version: int) -> int:
    """Step rollback; its exit code."""
    try:
        print(controller.go_back(version, "asked for by `release step rollback`"))
    except Kept as error:
        print(error, file=sys.stderr)
        return EXIT["held"]
    return 0


def _events(ports: Ports, release: str) -> list[ReleaseEvent]:
    return next(e for e in ports.record.releases() if e[0].release == release)


@contextmanager
def _ctrl_c() -> Iterator[None]:
    """Ctrl-C, a polite kill and a terminal that is closed are the same: roll back, then end."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    # Python leaves SIGINT ignored in a job that a shell started with `&`.
    heard = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        heard.remove(signal.SIGHUP)  # under nohup
    before = {s: signal.signal(s, interrupt) for s in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stream(as_json: bool) -> TextIO:
    return sys.stderr if as_json else sys.stdout


def _print_unchanged(text: str, version: int, as_json: bool) -> None:
    print(json.dumps({"version": version, "decision": None, "reason": text}) if as_json else text)


def _tell(env: str, events: Sequence[ReleaseEvent], as_json: bool) -> Summary:
    """How a release ended, and its evidence as a page beside its record."""
    from modelyard.delivery.reporting.status import outcome

    found = summary(events)
    if not as_json:
        print(outcome(found), flush=True)
    page = _write_page(env, events)
    if as_json:
        print(json.dumps({**asdict(found), "report": page and str(page)}))
    elif page:
        print(f"report: {page}")
    return found


def _write_page(env: str, events: Sequence[ReleaseEvent]) -> Path | None:
    path = Path(".modelyard/releases") / f"{events[0].release}.html"
    try:
        with installed("delivery"):
            from modelyard.delivery.reporting.html import write_report

            write_report(path, project_name(), env, [events])
    except Exception as error:  # whatever breaks here, the release has ended as it has
        told = str(error) if isinstance(error, UserError) else repr(error)
        print(f"no report: {told}", file=sys.stderr)
        return None
    return path
