"""The evidence report, of records that the machine itself wrote in simulated traffic."""

import json
import re
import zipfile
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from delivery.page import Page
from delivery.simulated import BEGAN, MARKUP, SETTINGS, Candidate, record
from hatchling.builders.wheel import WheelBuilder
from support import ROOT

from modelyard.delivery import reporting
from modelyard.delivery.reporting.html import write_report
from modelyard.documents import ReleaseEvent, UserError

RAMP: dict[str, Any] = {
    "canary": {"ramp": {"harm_budget": 20}, "min_requests": 25, "min_duration": "2s",
               "max_duration": "60s"},
}  # fmt: skip
HELD: dict[str, Any] = {
    "canary": {**SETTINGS["canary"], "max_duration": "15s", "on_inconclusive": "hold"},
}


def written(path: Path, *releases: list[ReleaseEvent], **more: Any) -> Page:
    write_report(path / "report.html", "flight-delay", "local", releases, **more)
    return Page((path / "report.html").read_text())


@pytest.mark.parametrize(
    ("candidate", "settings", "more", "decision", "said"),
    [
        (Candidate(), {}, {}, "promoted", ["proven within its limit", "v2 is the stable version"]),
        (Candidate(), RAMP, {}, "promoted", ["the budget for it is 20 failed requests"]),
        (Candidate(failing=0.3, late=6), {}, {}, "rolled back",
         ["Errors beyond its limit", "all users get v1 again"]),
        (Candidate(slower=6.0), {}, {}, "rolled back", ["Latency beyond its limit"]),
        (Candidate(shift=0.3), {}, {}, "rolled back", ["Scores beyond its limit"]),
        (Candidate(disagreeing={"UA": 0.5}), {}, {}, "rolled back",
         ["Predictions, carrier=UA beyond its limit", "The thin line shows its confidence bounds"]),
        (Candidate(), HELD, {"rate": 12.0}, "held", ["open: about", "held undecided"]),
        (Candidate(), {}, {"events": 40}, "unfinished", ["5 % of the users get v2", "so far"]),
    ],
    ids=["promoted", "ramp", "errors", "latency", "scores", "predictions", "held", "unfinished"],
)  # fmt: skip
def test_a_release_and_why(tmp_path, candidate, settings, more, decision, said) -> None:
    events = record(candidate, settings, seed=1, **more)
    page = written(tmp_path, events)
    words = re.sub(r"\s+", " ", page.text)
    assert f"v2 against v1 {decision}" in words
    for text in [events[-1].reason, "What users got", "Decisions", *said]:
        assert re.sub(r"\s+", " ", text) in words, text
    assert not page.outside, "the page must stand alone"
    assert page.contradictory_intervals() == []
    gates = {v["gate"] for e in events for v in e.verdicts if " " not in v["gate"]}
    assert gates == {"errors", "latency", "predictions", "scores"}
    assert len(page.pictures) >= 6 + 2 * len(gates)
    for picture in page.pictures:
        ElementTree.fromstring(picture)


def test_markup_in_what_a_request_held_is_text(tmp_path: Path) -> None:
    events = record(Candidate(disagreeing={"": 0.5, "UA": 0.5}), seed=2)
    last = events[-1].model_copy(update={"reason": f"{MARKUP} & more"})
    page = written(tmp_path, [*events[:-1], last])
    assert "script" not in page.tags and page.text.count(MARKUP) >= 10
    assert "Largest disagreements" in page.text


def test_the_wheel_holds_the_templates(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    packed = {Path(name).name for name in zipfile.ZipFile(wheel).namelist()}
    templates = {each.name for each in files(reporting).joinpath("templates").iterdir()}
    assert "report.html.j2" in templates and templates <= packed


def longer(events: list[ReleaseEvent], phase: str, times: int) -> list[ReleaseEvent]:
    """With the looks of a phase over and over, as if it had lasted that much longer."""
    begin = next(n for n, e in enumerate(events) if e.phase == phase)
    end = next(n for n, e in enumerate(events) if n > begin and e.phase != phase)
    lap = events[end - 1].time - events[begin].time
    return [
        *events[:begin],
        *(e.model_copy(update={"time": e.time + lap * n})
          for n in range(times) for e in events[begin:end]),
        *(e.model_copy(update={"time": e.time + lap * (times - 1)}) for e in events[end:]),
    ]  # fmt: skip


@pytest.mark.slow
def test_five_thousand_looks_are_thinned_out(tmp_path: Path) -> None:
    shadow = {"shadow": {"min_requests": 100_000, "max_duration": "60s"}}
    events = longer(record(Candidate(), shadow, rate=20.0), "shadow", 21)
    assert len(events) > 5000
    page = written(tmp_path, events)
    assert (tmp_path / "report.html").stat().st_size < 400_000
    assert "minutes since the release began" in page.text
    assert max(map(len, page.pictures)) < 40_000


def test_a_ramp_whose_weight_never_rests(tmp_path: Path) -> None:
    events = [
        e.model_copy(update={"weight": 1 + n % 40}) if e.phase == "canary" else e
        for n, e in enumerate(record(Candidate(), RAMP, rate=400, seed=3))
    ]
    page = written(tmp_path, longer(events, "canary", 100))
    assert re.search(r"… [\d,]+ more", page.text)
    assert page.tags.count("tr") < 120 and max(map(len, page.pictures)) < 40_000


def test_the_older_releases_have_a_line_each(tmp_path: Path) -> None:
    records = [record(Candidate(), seed=n, version=n, began=BEGAN + 60 * n) for n in range(2, 6)]
    page = written(tmp_path, *records, last=1)
    assert page.tags.count("section") == 1
    assert all(f"v{n}" in page.text for n in range(2, 6))


def test_records_without_verdicts_policy_or_traffic(tmp_path: Path) -> None:
    """Those of earlier versions of modelyard, and of a release that ended at once."""
    events = [e.model_copy(update={"verdicts": (), "policy": None}) for e in record(seed=4)]
    assert "What users got" in written(tmp_path, events).text
    assert "No traffic to compare" in written(tmp_path, record(events=2)).text
    assert "No release yet" in written(tmp_path).text


def test_a_record_that_was_read_back_gives_the_same_page(tmp_path: Path) -> None:
    events = record(Candidate(failing=0.3, late=6), seed=1)
    lines = [json.loads(e.model_dump_json()) for e in events]
    written(tmp_path, events)
    first = (tmp_path / "report.html").read_text()
    written(tmp_path, [ReleaseEvent.model_validate(line) for line in lines])
    assert (tmp_path / "report.html").read_text() == first


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't write the report .*file/report.html"):
        write_report(tmp_path / "file" / "report.html", "m", "local", [])


@pytest.mark.parametrize(
    "edit",
    [{"evidence": {"time": "late"}}, {"verdicts": ({"outcome": "pass"},)}],
    ids=["evidence", "verdict"],
)
def test_an_edited_record_is_refused(tmp_path: Path, edit: dict[str, Any]) -> None:
    events = record(events=9)
    events[7] = events[7].model_copy(update=edit)
    with pytest.raises(UserError, match="event 7: no evidence that can be read"):
        written(tmp_path, events)
    assert not (tmp_path / "report.html").exists()
