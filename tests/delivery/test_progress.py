"""What a person sees while a release runs, and by `release status`."""

import io
import json
import os
import re
import signal
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

import pytest
from delivery import simulated
from delivery.simulated import BEGAN, SETTINGS, Candidate, record
from rich.console import Console

from modelyard.delivery.commands.release import _ctrl_c
from modelyard.delivery.evidence.looks import Evidence, Health
from modelyard.delivery.policy import Policy
from modelyard.delivery.release.fold import apply, first_event, replay
from modelyard.delivery.reporting import terminal
from modelyard.delivery.reporting.format import happened
from modelyard.delivery.reporting.status import Status, outcome, show, status_of
from modelyard.delivery.reporting.summary import summary
from modelyard.delivery.reporting.terminal import Progress
from modelyard.documents import ReleaseEvent

READY = Health(status="ready")
ENVOY_ENDED = Health(status="failed", detail="Envoy ended")
RAMP: dict[str, Any] = {
    "canary": {"ramp": {"harm_budget": 20}, "min_requests": 25, "min_duration": "2s",
               "max_duration": "60s"},
}  # fmt: skip


def followed(events: Iterable[ReleaseEvent], encoding: str = "utf-8") -> str:
    """What the progress of a release prints."""
    first, *rest = events
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    state = replay([first])
    with Progress("release of flight-delay version 2 to local", stream) as shown:
        for event in rest:
            state = apply(state, event)
            shown.follow(state, Evidence.model_validate(event.evidence))
            shown._live.refresh()
    stream.flush()
    stream.seek(0)
    return stream.read()


def test_plain_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_EVERY_S", 0.0)
    lines = followed(record(Candidate(failing=0.3, late=6), seed=1)).splitlines()
    assert lines[0] == "release of flight-delay version 2 to local"
    assert "\x1b" not in "".join(lines)
    told = [line for line in lines if "% of the users get v2" in line]
    assert [re.findall(r"\d+ %", line)[0] for line in told] == ["5 %", "25 %"]
    first, look, *_ = (line for line in lines if "canary 5 % |" in line)
    assert " | v1 no requests | v2 no requests | " in first, "no rate of what was not counted"
    assert re.search(r"v1 [\d,]+ requests, \d+/s, 0 failed \| v2 \d+ requests", look)
    assert re.search(r"errors .* of 2.0 %, e 0.\d+ of 500, wait", look)
    assert "all users get v1 again: errors: " in lines[-2] and lines[-1].endswith("v2 is stopped")


def test_a_look_is_printed_every_few_seconds_only() -> None:
    lines = followed(record(seed=1)).splitlines()
    assert not any(" | " in line for line in lines), "all of it came within a moment"
    assert "v2 is the stable version" in lines[-1]


@pytest.mark.parametrize(
    "width", [50, *(pytest.param(width, marks=pytest.mark.slow) for width in (80, 140))]
)
@pytest.mark.parametrize("colours", [True, False])
def test_a_terminal_of_any_width(monkeypatch: pytest.MonkeyPatch, width: int, colours: bool):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(width))
    if not colours:
        monkeypatch.setenv("NO_COLOR", "1")
    candidate = Candidate(failing=0.05, late=4)
    text = followed(record(candidate, RAMP, seed=1))
    assert ("\x1b[31m" in text) == colours
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", line) for line in text.splitlines()]
    assert max(map(len, lines)) <= width
    assert any(re.search(r"canary, \d+ % of the users, \d", line) for line in lines)
    assert any(re.search(r"errors +(wait|pass|FAIL)", line) for line in lines)
    assert any("harm budget: " in line and "of 20 failed requests left" in line for line in lines)
    assert any("●" in line for line in lines) == (width == 140), "a picture where it fits"


def test_a_terminal_without_unicode() -> None:
    table = terminal.gates(
        status_of("local", [record(events=40)], {}, None, None).unfinished.verdicts,  # type: ignore[union-attr]
        console := Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=140),
        140,
    )
    with console.capture() as captured:
        console.print(table)
    assert captured.get().isascii() and "o" in captured.get()


def shown(found: Status, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(found, console, now=BEGAN + 100)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_status_of_an_unfinished_release() -> None:
    good, cut = record(seed=1, version=2), record(seed=2, version=3, began=BEGAN + 60, events=40)
    serving = {3: 5, 2: 95}
    url = "http://127.0.0.1:8080"
    found = status_of("local", [good, cut], {2: READY, 3: READY}, READY, url, serving)
    text = shown(found)
    for part in [
        "promoted",
        "unfinished: version 3, canary at",
        "% of the users for",
        "s ago",
        f"waits for: {cut[-1].reason}",
        "errors",
        "stable: 2",
        "users get version 2 (95 %) and version 3 (5 %)",
        "version 3: ready",
        "users: http://127.0.0.1:8080",
    ]:
        assert part in text, part
    assert "DOWN" not in text
    document = found.document()
    assert document["stable"] == 2 and document["down"] == []
    assert document["unfinished"]["reason"] == cut[-1].reason
    assert [v["gate"] for v in document["unfinished"]["verdicts"]][:2] == ["errors", "latency"]
    assert [r["decision"] for r in document["releases"]] == ["promoted", None]


@pytest.mark.parametrize(
    ("servers", "envoy", "said"),
    [
        ({2: READY, 3: READY}, ENVOY_ENDED, "DOWN: users: no answer: Envoy ended"),
        ({3: READY}, READY, "DOWN: version 2 does not serve"),
        ({2: READY, 3: Health(status="failed", detail="its server ended")}, READY,
         "DOWN: version 3 does not serve: its server ended"),
    ],
    ids=["envoy", "stable", "candidate"],
)  # fmt: skip
def test_status_says_loudly_what_is_down(servers, envoy, said) -> None:
    good, cut = record(seed=1, version=2), record(seed=2, version=3, began=BEGAN + 60, events=40)
    found = status_of("local", [good, cut], servers, envoy, "http://127.0.0.1:8080")
    assert said in shown(found) and len(found.down()) == 1
    assert "`modelyard release run`" in found.document()["down"][0]


def test_status_before_any_release() -> None:
    found = status_of("local", [], {}, Health(status="absent"), "http://127.0.0.1:8080")
    assert shown(found) == "stable: none\n" and found.document()["unfinished"] is None


def test_servers_that_are_to_be_started_are_not_down() -> None:
    good, begun = record(seed=1), record(version=3, began=BEGAN + 60, events=2)
    assert status_of("local", [good, begun], {2: READY}, READY, "").down() == []


def test_a_release_goes_on_when_nobody_reads_what_it_says() -> None:
    """`modelyard release run … | head`."""
    first, *rest = record(seed=1)
    read, write = os.pipe()
    os.close(read)
    state = replay([first])
    stream = open(write, "w", buffering=1)
    with Progress("title", stream) as progress:
        for event in rest:
            state = apply(state, event)
            progress.follow(state, Evidence.model_validate(event.evidence))
    with suppress(BrokenPipeError):
        stream.close()
    assert state.decision == "promoted"


@pytest.mark.parametrize("kept", [False, True], ids=["closed", "nohup"])
def test_a_terminal_that_is_closed_is_a_ctrl_c(kept: bool) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if kept else signal.SIG_DFL)
    try:
        with nullcontext() if kept else pytest.raises(KeyboardInterrupt), _ctrl_c():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_copies_that_come_in_after_the_shadow_have_no_user() -> None:
    events = record(Candidate(failing=0.5), seed=1)
    seen = [event.evidence for event in events if event.evidence]
    late = json.loads(json.dumps(next(s for s in reversed(seen) if "counts" in s)))
    late["counts"]["candidate"]["requests"] += 4
    late["counts"]["candidate"]["failures"] += 2
    found = summary([*events[:-1], events[-1].model_copy(update={"evidence": late})])
    assert found.decision == "rolled_back" and not any(e.phase == "canary" for e in events)
    assert (found.candidate_requests, found.candidate_failures) == (0, 0)


def test_a_gate_that_measured_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_EVERY_S", 0.0)
    histogram = simulated._histogram
    none = lambda *given, empty=False: {} if empty else histogram(*given)  # noqa: E731
    monkeypatch.setattr(simulated, "_histogram", none)
    lines = followed(record(seed=1, events=60)).splitlines()
    look = [line for line in lines if "shadow | " in line][-1]
    assert "| scores: none came, of any request |" in look and "?" not in look


@pytest.mark.parametrize(
    ("stable", "silent", "said"),
    [
        (1, False, "version 2 is rolled back: all users get version 1"),
        (1, True, "version 2 is rolled back, but version 1 does not answer"),
        (None, False, "version 2 is rolled back; nobody is served: it was the first version"),
    ],
)
def test_who_is_served_after_a_roll_back(stable: int | None, silent: bool, said: str) -> None:
    found = summary(record(Candidate(failing=0.5), seed=1))
    text = outcome(replace(found, stable=stable, stable_silent=silent))
    assert text.splitlines()[0] == said
    assert ("stable was" in text) == (stable is not None)


@pytest.mark.parametrize(
    ("stable", "said"),
    [(1, "all users get v1 again"), (None, "nobody is served: v2 was the first version")],
)
def test_a_roll_back_in_the_log(stable: int | None, said: str) -> None:
    begun = first_event("r", 2, stable, BEGAN, Policy())
    back = begun.model_copy(update={"sequence": 1, "phase": "rollback", "policy": None})
    assert happened(back) == said
    assert happened(replay([begun, back])) == said


def test_how_it_ended_in_plain_words() -> None:
    bad = outcome(summary(record(Candidate(failing=0.3, late=6), seed=1)))
    assert re.search(
        r"version 2 is rolled back: all users get version 1\nwhy: errors: .*\n"
        r"users: [\d,]+ requests, \d+ failed, all of them at version 2; stable was never down",
        bad,
    ), bad
    good = outcome(summary(record(seed=1)))
    assert good.startswith("version 2 is promoted: all users get it\nwhy: every gate")
    held = {**SETTINGS["canary"], "max_duration": "15s", "on_inconclusive": "hold"}
    told = outcome(summary(record(settings={"canary": held}, rate=12.0)))
    assert told.startswith("version 2 is held: the evidence is inconclusive\nwhy: undecided after")
