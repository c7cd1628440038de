"""Carries a release out: look, decide, write down, do; until it is decided.

What was decided is written before it is done, and doing it twice does no harm. (Only the
way back is done first: users must not wait for a disk.) So a
controller that died at any point is followed by one that reads the record, does its last
line once more and goes on.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, Protocol

from modelyard.delivery.evidence.counts import Counts
from modelyard.delivery.evidence.looks import Evidence, Health, Users
from modelyard.delivery.policy import Policy
from modelyard.delivery.ports import LockLost, NoAnswer, Ports, Routes
from modelyard.delivery.release.assess import Assessment, assess
from modelyard.delivery.release.audit import check_policy
from modelyard.delivery.release.decide import decide, roll_back
from modelyard.delivery.release.fold import apply, first_event, next_event, replay
from modelyard.delivery.release.shares import Kept, harmless, stable_version, told
from modelyard.delivery.release.state import STALE, Action, Provenance, State, routes_of
from modelyard.documents import ReleaseEvent, UserError, image_digest

Step = Literal["preflight", "deploy", "shadow", "canary", "promote"]
_ORDER: tuple[str, ...] = ("preflight", "deploy", "shadow", "canary", "promote")
_TICK_S = 0.001
_DOWN = ("absent", "failed")
_WATCHED_S = 10.0
"""between two looks that are written down while all is well and a person is waited for"""

Follow = Callable[[State, Evidence], None]
"""called after every event with the new state, and the evidence it was decided by"""


class Clients(Protocol):
    """Traffic of the controller's own."""

    def start(self) -> None:
        """Begin, unless begun: stable answers now."""
        ...

    def seen(self) -> Users: ...


class Unchanged(Exception):
    """The candidate is the stable version already; it serves."""


class Controller:
    """One environment's releases; use it while holding `ports.record.lock()`."""

    def __init__(
        self,
        ports: Ports,
        policy: Policy,
        follow: Follow = lambda state, evidence: None,
        clients: Clients | None = None,
    ) -> None:
        """Args: policy: of the releases that begin; one that has begun keeps its own."""
        self.ports = ports
        self.policy = policy
        self.follow = follow
        self.clients = clients

    def open(self, candidate: int, provenance: Provenance | None = None) -> State:
        """The release of `candidate`: the unfinished one, else a new one.

        A workflow begins one release: where the newest is its own, that is the one, decided or not.
        Without any record, whoever serves all users is adopted as the stable version.

        Raises:
            Unchanged: `candidate` is the stable version.
            UserError: another version's release is unfinished, or its policy was another, or
                the candidate can't be deployed or is another image by now, or nothing tells what
                stable is; nothing was changed.
        """
        provenance = provenance or Provenance()
        releases = self.ports.record.releases()
        last = replay(releases[-1]) if releases else None
        stable = stable_version(last, self._live())
        if last is not None and last.phase != "done":
            if last.candidate != candidate:
                raise UserError(
                    f"the release of version {last.candidate} ({last.release}) is unfinished: "
                    f"finish it with --candidate {last.candidate}, or end it with "
                    f"`modelyard release step rollback --env ENV --candidate {last.candidate}`"
                )
            check_policy(self.policy, last)
            _check_image(releases, candidate, provenance.digest)
            return last
        if last is not None and last.candidate == candidate:
            if provenance.workflow and releases[-1][0].workflow == provenance.workflow:
                return last
        if stable == candidate:
            _check_image(releases, candidate, provenance.digest)
        if stable != candidate or self._is_down(candidate):
            self.ports.runtime.check(candidate)
        if last is None and stable is not None:
            self._take_over(stable, f"version {stable} serves all users, and there was no record")
        if stable == candidate:
            self._keep_running(candidate, self._health(candidate))
            self._wait_for(candidate)
        self._clear(stable)
        if stable == candidate:
            raise Unchanged(unchanged(candidate))
        return self._begin(candidate, stable, provenance=provenance)

    def begun(self, candidate: int) -> State:
        """The release of `candidate`, which is the newest.

        Raises:
            Unchanged: none is under way, and `candidate` is the stable version.
            UserError: it has not begun.
        """
        last = self.last()
        if last is not None and last.candidate == candidate:
            return last
        if last is not None and last.phase == "done" and last.stable == candidate:
            raise Unchanged(unchanged(candidate))
        raise UserError(f"no release of version {candidate} has begun: run step deploy first")

    def adopt(self, version: int) -> list[str]:
        """Say that a version is stable, where the record does not say what serves.

        Records that can't be read, or have no end, are set aside.

        Returns:
            where these are now.

        Raises:
            Unchanged: it is the stable version, and the record says so.
            UserError: the record says that another one is; or no server of the version is ready.
                Nothing was changed.
        """
        if (last := self._sound()) is not None:
            if last.phase == "done" and last.stable == version:
                raise Unchanged(unchanged(version))
            serves = "none yet" if last.stable is None else f"version {last.stable}"
            raise UserError(
                f"the record and the route agree about what is stable ({serves}), so there is "
                f"nothing to adopt: `modelyard release run` releases version {version}"
            )
        health = self._health(version)
        if not health.answers:
            ready = [v for v in sorted(self.ports.runtime.versions()) if self._health(v).answers]
            raise UserError(
                f"version {version} can't be adopted: it has no server that is ready (versions "
                f"that have: {', '.join(map(str, ready)) or 'none'})"
            )
        aside = self.ports.record.set_aside(_ended)
        self._take_over(version, "adopted by `modelyard release adopt`")
        return aside

    def _sound(self) -> State | None:
        """The newest release, if it says what serves; None if that has to be said anew."""
        try:
            last = self.last()
            stable_version(last, self._live())
            return last
        except NoAnswer:
            raise
        except UserError:
            return None

    def _take_over(self, version: int, reason: str) -> None:
        """Make a version that serves already the stable one, by a release of its own."""
        self.ports.record.check()
        evidence = Evidence(time=time.time(), candidate=self._health(version))
        state = self._begin(version, None, reason)
        for action in (
            Action("deploy", 0, reason),
            Action("promote", 100, reason),
            Action("done", 100, reason, "bootstrapped"),
        ):
            seen = assess(state, evidence)
            event = next_event(state, action, seen)
            self.ports.record.append(event)
            state = apply(state, event, seen)
        self._carry_out(state, evidence)
        self.follow(state, evidence)

    def _begin(
        self,
        candidate: int,
        stable: int | None,
        reason: str = "",
        provenance: Provenance | None = None,
    ) -> State:
        # The newest release is that which began last, also where the clock was set back.
        releases = self.ports.record.releases()
        before = max((event.time for event in releases[-1]), default=0.0) if releases else 0.0
        now = max(time.time(), before + _TICK_S)
        name = f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%S%f}-v{candidate}"
        event = first_event(name, candidate, stable, now, self.policy, provenance, reason)
        blind = self.ports.blind if stable is not None else ""
        if blind:
            event = event.model_copy(update={"reason": f"{event.reason}; {blind}"})
        self.ports.record.append(event)
        state = replay([event])
        if blind:
            self.follow(state, Evidence(time=now, candidate=Health(status="absent")))
        return state

    def last(self, judged: bool = True) -> State | None:
        """Where the newest release is; None before any. `judged` as of `replay`."""
        releases = self.ports.record.releases()
        return replay(releases[-1], judged) if releases else None

    def run(self, state: State) -> State:
        """The rest of the release.

        Whatever breaks on the way, Ctrl-C too, first takes the candidate's traffic away.

        Raises:
            LockLost: another controller may be at work; nothing more was done.
            UserError, KeyboardInterrupt: after the roll back.
        """
        try:
            return self.advance(state)
        except KeyboardInterrupt:
            self.go_back(state.candidate, "interrupted")
            raise
        except LockLost:
            raise
        except Exception as error:
            self.go_back(state.candidate, _told(error))
            raise

    def go_back(self, version: int, reason: str) -> str:
        """Users of a version get stable again, whatever is left of the record.

        Returns:
            what was done, for people.

        Raises:
            Kept: nobody else could answer them; nothing was changed.
        """
        try:
            state = self.last(judged=False)
        except NoAnswer:
            raise
        except UserError as error:
            return self._go_back_by_route(version, f"the record can't be read ({error})")
        if state is None:
            return self._go_back_by_route(version, "there is no record of a release")
        if state.candidate == version:
            ended = self.roll_back(reason)
            decision = ended.decision if ended else None
            return f"version {version}: {(decision or 'undecided').replace('_', ' ')}"
        if state.stable == version:
            return f"version {version} is the stable version: there is nothing to roll back"
        why = f"there is no record of a release of version {version}"
        return self._go_back_by_route(version, why, state.stable)

    def _go_back_by_route(self, version: int, why: str, stable: int | None = None) -> str:
        """All users to the version that shares them with this one, or is `stable` on record.

        Not to one that merely has servers: it may be a candidate that nothing is proven of.
        """
        live = self.ports.router.serving()
        if version not in live:
            return f"{why}; version {version} gets no users: there is nothing to roll back"
        there = sorted((self.ports.runtime.versions() | live.keys()) - {version})
        ready = [v for v in there if self._health(v).answers]
        known = [v for v in ready if v in live or v == stable]
        if not known:
            raise Kept(
                f"{why}, and {told(live)}: version {version} keeps them, since nothing tells where "
                "else they belong. `modelyard release adopt --env ENV --version N` gives them to "
                f"one that you name (ready: {', '.join(map(str, ready)) or 'none'})"
            )
        best = max(known, key=lambda v: (v == stable, live.get(v, 0), v))
        self.ports.record.check()
        self.ports.router.route(Routes(stable=best))
        return (
            f"{why}. By the route, {told(live)}; now all users get version {best}. The servers of "
            f"version {version} run on without users"
        )

    def roll_back(self, reason: str) -> State | None:
        """Back to stable, unless the newest release is decided."""
        try:
            state = self.last()
        except UserError:
            # E-values that were edited, or are another modelyard's, must not keep users here.
            state = self.last(judged=False)
        if state is None:
            return None
        if state.phase not in ("rollback", "done"):
            evidence = self._look_anyway(state)
            first = state.stable is None and state.phase == "promote"
            if not (first and evidence.candidate.answers):  # its users have nobody else
                state = self._do(state, roll_back(reason), assess(state, evidence))
        return self.advance(state)

    def advance(self, state: State, step: Step = "promote", weight: int = 100) -> State:
        """Go on up to the end of a step (`promote`: to the end of the release).

        A step that is done already decides nothing. What breaks on the way is for the
        caller to try again, or to roll back.
        """
        # Whoever wrote the record's last line may have died before it was done.
        self._carry_out(state)
        while state.phase != "done":
            next_look = time.monotonic() + _interval(state)
            seen = assess(state, self._look(state))
            action = self._decide(state, seen)
            if _beyond(action, step, weight):
                return state
            moves = action.moves(state)
            state = self._do(state, action, seen)
            if not moves:
                time.sleep(max(0.0, next_look - time.monotonic()))
        return state

    def watch(self, state: State, waiting: Callable[[], bool]) -> State:
        """Look on without going further, while `waiting`; what fails is rolled back meanwhile."""
        self._carry_out(state)
        written = time.monotonic()
        while state.phase != "done" and (waiting() or state.phase == "rollback"):
            policy, next_look = state.policy, time.monotonic() + state.policy.interval
            seen = assess(state, self._look(state))
            action = self._decide(state, seen)
            # At the end of the time, what is written down must be older than what is looked at.
            end = policy.canary.max_duration - STALE * policy.interval
            in_time = seen.evidence.time - state.since <= end
            due = in_time and time.monotonic() - written >= _WATCHED_S
            if due and _beyond(action, "canary", state.weight):
                # A fault that begins late must not be weighed against all that went well before.
                action = Action(state.phase, state.weight, f"not approved yet; {action.reason}")
            if not _beyond(action, "canary", state.weight):
                state, written = self._do(state, action, seen), time.monotonic()
            time.sleep(max(0.0, next_look - time.monotonic()))
        return state

    def _decide(self, state: State, seen: Assessment) -> Action:
        """Raises: Changed: the policy is another one by now, and there is something to weigh."""
        if state.phase in ("shadow", "canary"):
            check_policy(self.policy, state)
        return decide(state, seen)

    def _look(self, state: State) -> Evidence:
        runtime, began = self.ports.runtime, time.time()
        counts, note = self._counts(state)
        candidate = runtime.health(state.candidate)
        evidence = Evidence(
            time=began,
            candidate=candidate,
            stable=None if state.stable is None else runtime.health(state.stable),
            counts=counts,
            note=note,
            users=self.clients.seen() if self.clients else None,
            unreached=self._unreached(state, candidate),
        )
        if self.clients and evidence.stable and evidence.stable.status == "ready":
            self.clients.start()
        return evidence

    def _unreached(self, state: State, candidate: Health) -> str:
        """What keeps users from a candidate that has just got ready; as of `Reach.problem`."""
        if self.ports.reach is None or state.phase != "deploy" or candidate.status != "ready":
            return ""
        return self.ports.reach.problem(state.candidate)

    def _look_anyway(self, state: State) -> Evidence:
        """What can be seen. The way back must not depend on it."""
        try:
            return self._look(state)
        except Exception as error:
            blind = Health(status="starting", detail=f"not seen: {_told(error)}")
            return Evidence(time=time.time(), candidate=blind, note=_told(error))

    def _counts(self, state: State) -> tuple[Counts | None, str]:
        if state.phase in ("preflight", "deploy"):
            return None, "no traffic to the candidate yet"
        try:
            return self.ports.source.counts(routes_of(state), state.shadow_began), ""
        except ConnectionError as error:
            return None, str(error)
        except Exception as error:
            if state.phase != "rollback":
                raise
            return None, _told(error)

    def _do(self, state: State, action: Action, seen: Assessment) -> State:
        self.ports.record.check()
        event, evidence = next_event(state, action, seen), seen.evidence
        state = apply(state, event, seen)
        try:
            if state.phase == "rollback":
                self._steer(state, evidence)
        finally:
            self.ports.record.append(event)
        self._carry_out(state, evidence)
        self.follow(state, evidence)
        return state

    def _carry_out(self, state: State, seen: Evidence | None = None) -> None:
        """Make the world what the state says. Stable is let go last, and only when replaced.

        Args:
            seen: the newest look, if there was one just now.
        """
        runtime = self.ports.runtime
        if state.phase != "shadow" and self.ports.shadow:
            # What it sent is counted before live evidence begins. The way back waits for nothing.
            self.ports.shadow.stop(wait=state.phase == "canary")
        self._steer(state, seen)
        if state.phase == "shadow" and state.policy.shadow.replay and self.ports.shadow:
            self.ports.shadow.start(state.stable or 0)
        if state.phase != "deploy" and self.ports.reach:
            self.ports.reach.end()
        if state.phase == "deploy" and self._health(state.candidate).status == "absent":
            runtime.deploy(state.candidate)
        if state.phase == "rollback":
            self._stop(state.candidate)
        if state.phase == "done" and state.decision != "held":
            self._stop_all_but(state.stable)

    def _steer(self, state: State, seen: Evidence | None) -> None:
        """Who serves. A candidate whose servers are gone gets no traffic to fail."""
        healths = {state.candidate: seen.candidate if seen else self._health(state.candidate)}
        if state.stable is not None:
            stable = seen.stable if seen and seen.stable else self._health(state.stable)
            # One version in both places: the candidate that has just become stable.
            healths[state.stable] = healths.get(state.stable, stable)
            self._keep_running(state.stable, healths[state.stable])
        routes = routes_of(state)
        gone = routes.candidate not in self.ports.runtime.versions()
        self._route(Routes(stable=routes.stable) if gone else routes, healths)

    def _route(self, wanted: Routes, seen: Mapping[int, Health]) -> None:
        """Who serves, but for users who would lose whoever answers them."""
        live = self.ports.router.serving()
        concerned = {v for v in (wanted.stable, wanted.candidate, *live) if v is not None}
        silent = {v for v in concerned if (seen.get(v) or self._health(v)).silent}
        routes = harmless(wanted, live, silent)
        if routes is not None:
            self.ports.router.route(routes)

    def _live(self) -> dict[int, int]:
        """Who gets users, of the versions that have servers."""
        there = self.ports.runtime.versions()
        return {v: weight for v, weight in self.ports.router.serving().items() if v in there}

    def _health(self, version: int) -> Health:
        return self.ports.runtime.health(version)

    def _keep_running(self, version: int, health: Health) -> None:
        if health.status in _DOWN:
            self.ports.runtime.deploy(version)

    def _is_down(self, version: int) -> bool:
        return self._health(version).status in _DOWN

    def _clear(self, stable: int | None) -> None:
        """Only stable runs and serves; what an earlier release left over is stopped.

        Not before stable can answer: until then what is left over may be all that there is.
        """
        if stable is None:
            return
        health = self._health(stable)
        self._keep_running(stable, health)
        self._route(Routes(stable=stable), {stable: health})
        if not health.silent:
            self._stop_all_but(stable)

    def _stop_all_but(self, version: int | None) -> None:
        for other in sorted(self.ports.runtime.versions() - {version}):
            self._stop(other)

    def _stop(self, version: int) -> None:
        """Unless it gets users."""
        if version not in self.ports.router.serving():
            self.ports.runtime.stop(version)

    def _wait_for(self, version: int) -> None:
        deadline = time.monotonic() + self.policy.deploy.max_duration
        while (health := self.ports.runtime.health(version)).status != "ready":
            if health.status == "failed" or time.monotonic() > deadline:
                raise UserError(f"version {version} does not get ready: {health.detail}")
            time.sleep(min(self.policy.interval, 1.0))


def _check_image(
    releases: Sequence[Sequence[ReleaseEvent]], version: int, digest: str | None
) -> None:
    """Raises: UserError: the version was released as another image."""
    known = image_digest(releases, version)
    if digest and known and digest != known:
        raise UserError(
            f"version {version} was released as {known}, and is {digest} now: a version's image "
            "never changes; register a new version and ask for that"
        )


def _interval(state: State) -> float:
    """s between two looks; getting ready is a matter of seconds, whatever evidence takes."""
    interval = state.policy.interval
    return min(interval, 1.0) if state.phase == "deploy" else interval


def unchanged(version: int) -> str:
    return f"version {version} is the stable version already; it serves"


def _ended(events: list[ReleaseEvent]) -> bool:
    """Whether a release can be read to its end."""
    try:
        return replay(events).phase == "done"
    except UserError:
        return False


def _told(error: Exception) -> str:
    """For people; a KeyError's own text is only the key."""
    return str(error) if isinstance(error, UserError | OSError) else repr(error)


def _beyond(action: Action, step: Step, weight: int) -> bool:
    """Whether an action belongs to a later step. Rolling back and ending belong to any."""
    if action.phase not in _ORDER:
        return False
    place = (_ORDER.index(action.phase), action.weight if action.phase == "canary" else 0)
    return place > (_ORDER.index(step), weight if step == "canary" else 0)
