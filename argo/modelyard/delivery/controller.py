"""Carries a release out: look, decide, write down, do; until it is decided.

What was decided is written before it is done, and doing it twice does no harm. (Only the
way back is done first: users must not wait for a disk.) So a
controller that died at any point is followed by one that reads the record, does its last
line once more and goes on.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal, Protocol

from modelyard.delivery import machine
from modelyard.delivery.machine import Action, State
from modelyard.delivery.policy import Policy
from modelyard.delivery.ports import Counts, Evidence, Health, LockLost, Ports, Routes, Users
from modelyard.documents import ReleaseEvent, UserError

Step = Literal["preflight", "deploy", "shadow", "canary", "promote"]
_ORDER: tuple[str, ...] = ("preflight", "deploy", "shadow", "canary", "promote")
_TICK_S = 0.001
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
        self.ports = ports
        self.policy = policy
        self.follow = follow
        self.clients = clients

    def open(self, candidate: int) -> State:
        """The release of `candidate`: the unfinished one, else a new one.

        Raises:
            Unchanged: `candidate` is the stable version.
            UserError: another version's release is unfinished, or its policy was another, or
                the candidate can't be deployed; nothing was changed.
        """
        releases = self.ports.record.releases()
        last = machine.replay(releases[-1]) if releases else None
        if last is not None and last.phase != "done":
            if last.candidate != candidate:
                raise UserError(
                    f"the release of version {last.candidate} ({last.release}) is unfinished: "
                    f"finish it with --candidate {last.candidate}, or end it with "
                    f"`modelyard release step rollback --env ENV --candidate {last.candidate}`"
                )
            machine.check_policy(self.policy, last)
            return last
        stable = last.stable if last else None
        if stable != candidate or self._is_down(candidate):
            self.ports.runtime.check(candidate)
        self._clear(stable)
        if stable == candidate:
            self._wait_for(candidate)
            raise Unchanged(f"version {candidate} is the stable version already; it serves")
        # The newest release is that which began last, also where the clock was set back.
        before = max((event.time for event in releases[-1]), default=0.0) if releases else 0.0
        now = max(time.time(), before + _TICK_S)
        name = f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%S%f}-v{candidate}"
        event = machine.begin(name, candidate, stable, now, self.policy)
        blind = self.ports.blind if stable is not None else ""
        if blind:
            event = event.model_copy(update={"reason": f"{event.reason}; {blind}"})
        self.ports.record.append(event)
        state = machine.replay([event])
        if blind:
            self.follow(state, Evidence(time=now, candidate=Health(status="absent")))
        return state

    def last(self, judged: bool = True) -> State | None:
        """Where the newest release is; None before any. `judged` as of `machine.replay`."""
        releases = self.ports.record.releases()
        return machine.replay(releases[-1], judged) if releases else None

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
            self.roll_back("interrupted")
            raise
        except LockLost:
            raise
        except Exception as error:
            self.roll_back(_told(error))
            raise

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
            state = self._do(state, machine.roll_back(reason), self._look_anyway(state))
        return self.advance(state)

    def advance(self, state: State, step: Step = "promote", weight: int = 100) -> State:
        """Go on up to the end of a step (`promote`: to the end of the release).

        A step that is done already decides nothing. What breaks on the way is for the
        caller to try again, or to roll back.
        """
        # Whoever wrote the record's last line may have died before it was done.
        self._carry_out(state)
        while state.phase != "done":
            next_look = time.monotonic() + self._interval(state)
            evidence = self._look(state)
            action = machine.decide(self.policy, evidence, state)
            if _beyond(action, step, weight):
                return state
            moves = action.moves(state)
            state = self._do(state, action, evidence)
            if not moves:
                time.sleep(max(0.0, next_look - time.monotonic()))
        return state

    def watch(self, state: State, waiting: Callable[[], bool]) -> State:
        """Look on without going further, while `waiting`; what fails is rolled back meanwhile."""
        self._carry_out(state)
        written = time.monotonic()
        while state.phase != "done" and (waiting() or state.phase == "rollback"):
            next_look = time.monotonic() + self.policy.interval
            evidence = self._look(state)
            action = machine.decide(self.policy, evidence, state)
            # At the end of the time, what is written down must be older than what is looked at.
            end = self.policy.canary.max_duration - machine.STALE * self.policy.interval
            in_time = evidence.time - state.since <= end
            due = in_time and time.monotonic() - written >= _WATCHED_S
            if due and _beyond(action, "canary", state.weight):
                # A fault that begins late must not be weighed against all that went well before.
                action = Action(state.phase, state.weight, f"not approved yet; {action.reason}")
            if not _beyond(action, "canary", state.weight):
                state, written = self._do(state, action, evidence), time.monotonic()
            time.sleep(max(0.0, next_look - time.monotonic()))
        return state

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

    def _interval(self, state: State) -> float:
        """s between two looks; getting ready is a matter of seconds, whatever evidence takes."""
        return min(self.policy.interval, 1.0) if state.phase == "deploy" else self.policy.interval

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
            return self.ports.source.counts(machine.routes(state), state.shadow_began), ""
        except ConnectionError as error:
            return None, str(error)
        except Exception as error:
            if state.phase != "rollback":
                raise
            return None, _told(error)

    def _do(self, state: State, action: Action, evidence: Evidence) -> State:
        self.ports.record.check()
        event: ReleaseEvent = machine.event(state, action, evidence)
        state = machine.apply(state, event)
        try:
            if state.phase == "rollback":
                self._steer(state)
        finally:
            self.ports.record.append(event)
        self._carry_out(state)
        self.follow(state, evidence)
        return state

    def _carry_out(self, state: State) -> None:
        """Make the world what the state says. Stable is let go last, and only when replaced."""
        runtime = self.ports.runtime
        if state.phase != "shadow" and self.ports.shadow:
            # What it sent is counted before live evidence begins. The way back waits for nothing.
            self.ports.shadow.stop(wait=state.phase == "canary")
        self._steer(state)
        if state.phase == "shadow" and self.policy.shadow.replay and self.ports.shadow:
            self.ports.shadow.start(state.stable or 0)
        if state.phase != "deploy" and self.ports.reach:
            self.ports.reach.end()
        if state.phase == "deploy" and runtime.health(state.candidate).status == "absent":
            runtime.deploy(state.candidate)
        if state.phase == "rollback":
            runtime.stop(state.candidate)
        if state.phase == "done" and state.decision != "held":
            self._stop_all_but(state.stable)

    def _steer(self, state: State) -> None:
        """Who serves. A candidate whose servers are gone gets no traffic to fail."""
        self._keep_running(state.stable)
        routes = machine.routes(state)
        gone = routes.candidate not in self.ports.runtime.versions()
        self.ports.router.route(Routes(stable=routes.stable) if gone else routes)

    def _keep_running(self, version: int | None) -> None:
        if version is not None and self._is_down(version):
            self.ports.runtime.deploy(version)

    def _is_down(self, version: int) -> bool:
        return self.ports.runtime.health(version).status in ("absent", "failed")

    def _clear(self, stable: int | None) -> None:
        """Only stable runs and serves; what an earlier release left over is stopped."""
        self._keep_running(stable)
        self.ports.router.route(Routes(stable=stable))
        self._stop_all_but(stable)

    def _stop_all_but(self, version: int | None) -> None:
        for other in sorted(self.ports.runtime.versions() - {version}):
            self.ports.runtime.stop(other)

    def _wait_for(self, version: int) -> None:
        deadline = time.monotonic() + self.policy.deploy.max_duration
        while (health := self.ports.runtime.health(version)).status != "ready":
            if health.status == "failed" or time.monotonic() > deadline:
                raise UserError(f"version {version} does not get ready: {health.detail}")
            time.sleep(min(self.policy.interval, 1.0))


def _told(error: Exception) -> str:
    """For people; a KeyError's own text is only the key."""
    return str(error) if isinstance(error, UserError | OSError) else repr(error)


def _beyond(action: Action, step: Step, weight: int) -> bool:
    """Whether an action belongs to a later step. Rolling back and ending belong to any."""
    if action.phase not in _ORDER:
        return False
    place = (_ORDER.index(action.phase), action.weight if action.phase == "canary" else 0)
    return place > (_ORDER.index(step), weight if step == "canary" else 0)
