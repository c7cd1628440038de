"""The evidence report: every release of an environment on one self-contained page."""

import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from modelyard.delivery.evidence.counts import Disagreement, Pairs, Slice
from modelyard.delivery.gates.trial import Verdict
from modelyard.delivery.local.process_supervisor import write_atomically
from modelyard.delivery.policy import Policy
from modelyard.delivery.reporting.format import (
    GATES,
    against,
    duration,
    happened,
    interval,
    limit,
    number,
    seen,
    share,
    standing,
)
from modelyard.delivery.reporting.plots import Pictures, Track
from modelyard.delivery.reporting.summary import (
    Look,
    Point,
    Summary,
    looks,
    points,
    stable_down,
    summed,
    tracks,
    turns,
)
from modelyard.documents import ReleaseEvent, UserError
from modelyard.statistics.sequential import rate_bound

_MOST = 160
"""moments of a gate that a picture shows"""
_SLICES = 20
"""bars"""
_TURNS = 60
"""rows of the table of decisions"""
_BADGES = {"promoted": "good", "bootstrapped": "good", "rolled_back": "bad"}
_OUTCOMES = {"pass": "good", "fail": "bad", "wait": "open"}


def write_report(
    path: Path,
    model: str,
    environment: str,
    releases: Sequence[Sequence[ReleaseEvent]],
    last: int = 10,
) -> None:
    """Write the page, newest release first; the newest `last` of them with their pictures.

    Raises:
        UserError: it can't be written, or a record was edited.
    """
    found = [looks(events) for events in releases]
    summaries = [summed(x) for x in found]
    whole = list(zip(summaries, found, strict=True))
    pictured = whole[-last:] if last else []
    rows = "".join(_row(s, x[0].event.time, (s, x) in pictured) for s, x in reversed(whole))
    sections = "".join(_section(s, x) for s, x in reversed(pictured))
    title = _text(f"Releases of {model} to {environment}")
    table = _table(
        ("version", "began (UTC)", "decision", "why", "#took", "#requests of users", "#failed",
         "#stable down"), rows)  # fmt: skip
    text = (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f"{table if releases else '<p>No release yet.</p>'}"
        f"{_READING if sections else ''}{sections}</body></html>\n"
    )
    try:
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"can't write the report {path}: {error.strerror}") from None


def _row(s: Summary, began: float, pictured: bool) -> str:
    name = f"<a href='#{_text(s.release)}'>v{s.version}</a>" if pictured else f"v{s.version}"
    return (
        f"<tr><td>{name}<td>{datetime.fromtimestamp(began, UTC):%Y-%m-%d %H:%M:%S}<td>{_badge(s)}"
        f"<td>{_text(s.reason)}<td class='n'>{duration(s.seconds)}<td class='n'>{s.requests:,}"
        f"<td class='n'>{s.failed_requests:,}<td class='n'>{stable_down(s)}</tr>"
    )


def _section(s: Summary, found: Sequence[Look]) -> str:
    than = f" against v{s.stable}" if s.stable else ""
    shown = points(found)
    parts = [_facts(s), _traffic(s, found, shown), _gates(found, shown), _slices(found),
             _largest(s, found), _decisions(found), _policy(found)]  # fmt: skip
    return (
        f"<section id='{_text(s.release)}'><h2>v{s.version}{than} {_badge(s)}</h2>"
        f"<p class='why'>{_text(s.reason)}</p>{''.join(parts)}</section>"
    )


def _badge(s: Summary) -> str:
    kind = _BADGES.get(s.decision or "", "open")
    return f"<span class='badge {kind}'>{(s.decision or 'unfinished').replace('_', ' ')}</span>"


def _facts(s: Summary) -> str:
    """What it cost, in figures."""
    facts = {
        "until it was decided" if s.decision else "so far": duration(s.seconds),
        "requests of users": f"{s.requests:,}",
        "of them failed": f"{s.failed_requests:,}",
        f"answered by v{s.version}": f"{s.candidate_requests:,}",
        f"failed by v{s.version}": f"{s.candidate_failures:,}",
        "stable was down": f"{s.stable_downtime_s:g} s",
    }
    if s.stable is None:
        for fact in (f"answered by v{s.version}", f"failed by v{s.version}", "stable was down"):
            del facts[fact]
    cells = "".join(f"<div><b>{value}</b> {name}</div>" for name, value in facts.items())
    return f"<div class='facts'>{cells}</div>"


def _traffic(s: Summary, found: Sequence[Look], shown: Sequence[Point]) -> str:
    """What users got, over time."""
    if len(shown) < 2 or s.stable is None:
        return "<p class='note'>No traffic to compare.</p>"
    policy, pictures = _read_policy(found), Pictures(found, shown)
    ours, theirs = f"v{s.version} (candidate)", f"v{s.stable} (stable)"
    gate = policy.gates.latency if policy else None
    q = gate.quantile if gate else 0.95
    budget = policy.canary.ramp.harm_budget if policy and policy.canary.ramp else None
    cards = [
        _card(f"Users who got v{s.version}", "% of the users", pictures.weight(),
              "Higher: more users are answered by the candidate. In the shadow it is nobody: the "
              "candidate answers copies, and its answers are thrown away."),
        _card("Answers", "a second", pictures.rate(),
              f"How busy {theirs} and {ours} were; in the shadow the candidate's are copies."),
        _card("Failed answers", "% of a version's answers", pictures.failures(),
              "Where the orange line stays on the blue one, the candidate fails no more often "
              "than stable does."),
        _card("Requests that it cost users", "failed requests", pictures.harm(budget),
              "The gap between the two lines is what this release cost users"
              + (f"; the budget for it is {budget:g} failed requests." if budget else ".")),
        _card("Median latency", "ms", pictures.latency(0.5),
              "Half of the answers took longer. The shade is where the true value lies, 95 times "
              "in 100."),
        _card(f"Slowest answers (p{100 * q:g})", "ms", pictures.latency(q),
              f"{share(1 - q)} of the answers took longer. Few answers make the shade wide."),
    ]  # fmt: skip
    return f"<h3>What users got</h3><div class='cards'>{''.join(cards)}</div>"


def _gates(found: Sequence[Look], traffic: Sequence[Point]) -> str:
    """Each gate: its newest figures, and how they came about."""
    by_gate = tracks(found, _MOST)
    # A slice's row is in the list of slices; it is here only if it is the reason.
    shown = [t for t in by_gate.values() if not t[-1][1].of_slice or _failed(t)]
    shown.sort(key=lambda track: not _failed(track))
    if not shown:
        return ""
    pictures = Pictures(found, traffic)
    parts = [_gate(track, pictures) for track in shown]
    heads = (
        "gate",
        "",
        "#seen",
        "#surely within",
        "#limit",
        "#evidence against it",
        "#rolls back at",
    )
    table = _table(heads, "".join(_figures(track[-1][1]) for track in shown))
    return f"<h3>What the gates said</h3>{table}{''.join(parts)}"


def _figures(v: Verdict) -> str:
    cells = (seen(v), interval(v), limit(v), against(v), number(v.threshold))
    numbers = "".join(f"<td class='n'>{cell}" for cell in cells)
    return f"<tr><td>{_name(v)}<td>{_outcome(v)}{numbers}</tr>"


def _gate(track: Track, pictures: Pictures) -> str:
    last = track[-1][1]
    _, asks, reads = GATES[last.gate.partition(" ")[0]]
    cards = _card(
        "What was seen, and how sure that is", "%" if last.unit == "share" else "times",
        pictures.bounds(track),
        f"{reads} The shade: where the truth may lie. Promoted only with all of it below the red "
        "line.",
    ) + _card(
        "The evidence against it", "times", pictures.evidence(track),
        "1: the counts say nothing. 100: they are 100 times likelier beyond the limit than within "
        "it. At the red line the release rolls back, at once.",
    )  # fmt: skip
    return (
        f"<div class='gate'><h4>{_name(last)} {_outcome(last)}</h4>"
        f"<p>{asks} {_text(last.text)}.</p><div class='cards'>{cards}</div></div>"
    )


def _name(v: Verdict) -> str:
    kind, _, of = v.gate.partition(" ")
    return GATES[kind][0] + (f", {_text(of)}" if of else "")


def _failed(track: Track) -> bool:
    return track[-1][1].outcome == "fail"


def _outcome(verdict: Verdict) -> str:
    return f"<span class='badge {_OUTCOMES[verdict.outcome]}'>{standing(verdict)}</span>"


def _slices(found: Sequence[Look]) -> str:
    """Disagreement of each slice with its bounds, as bars."""
    policy, pairs = _read_policy(found), _last_pairs(found)
    gate = policy.gates.predictions if policy else None
    if policy is None or gate is None or not pairs.slices:
        return ""
    judged = {v.gate.partition(" ")[2]: v for x in found for v in x.verdicts if v.of_slice}
    bars = [
        _Bar(name, each, "fail" if name in judged and judged[name].outcome == "fail" else "wait")
        for name, each in pairs.slices.items()
        if each.requests
    ]
    worst = sorted(bars, key=lambda bar: -bar.share)[:_SLICES]
    whole = Slice(requests=pairs.requests, disagreement=pairs.disagreement)
    shown = [_Bar("all requests", whole, "wait"), *worst]
    top = min(1.0, 1.1 * max([0.05, gate.max_disagreement, *(bar.share for bar in shown)]))
    rows = "".join(bar.html(policy.alpha, gate.max_disagreement, top) for bar in shown)
    left_out = len(bars) - len(worst)
    more = f"<p class='note'>… and {left_out} with less.</p>" if left_out else ""
    return (
        "<h3>Where the two versions disagree</h3><p class='note'>Each bar is the share of a "
        "group's requests that both versions answered differently in the shadow; the thin line is "
        "where the true share may lie, the red mark is the limit. A long thin line means few "
        f"requests.</p><div class='bars'>{rows}</div>{more}"
    )


@dataclass(frozen=True)
class _Bar:
    """The pairs of a slice."""

    name: str
    pairs: Slice
    outcome: str

    @property
    def share(self) -> float:
        return self.pairs.disagreement / self.pairs.requests if self.pairs.requests else 0.0

    def html(self, alpha: float, limit: float, top: float) -> str:
        n, k = self.pairs.requests, min(self.pairs.disagreement, self.pairs.requests)
        lower, upper = 1 - rate_bound(n, n - k, alpha), rate_bound(n, k, alpha)
        at = [100 * min(1.0, x / top) for x in (self.share, lower, upper, limit)]
        return (
            f"<div>{_text(self.name)}</div><div class='bar {_OUTCOMES[self.outcome]}'>"
            f"<b style='width:{at[0]:.1f}%'></b>"
            f"<i style='left:{at[1]:.1f}%;width:{at[2] - at[1]:.1f}%'></i>"
            f"<u style='left:{at[3]:.1f}%'></u></div>"
            f"<div class='n'>{share(self.share)} of {n:,}</div>"
        )


def _largest(s: Summary, found: Sequence[Look]) -> str:
    """The rows that both versions answered most differently."""
    worst = _last_pairs(found).largest
    if not worst:
        return ""
    rows = "".join(_disagreement(d) for d in worst)
    table = _table(("request", "inputs", f"#score of v{s.stable}", f"#score of v{s.version}"), rows)
    return (
        "<h3>Largest disagreements</h3><p class='note'>Of the requests in the shadow, those that "
        f"both versions answered most differently.</p>{table}"
    )


def _last_pairs(found: Sequence[Look]) -> Pairs:
    return next((c.pairs for x in reversed(found) if (c := x.counts) and c.pairs), Pairs())


def _disagreement(d: Disagreement) -> str:
    inputs = ", ".join(f"<b>{_text(k)}</b> {_text(_value(v))}" for k, v in d.inputs.items())
    row = f" <span class='note'>row {d.row}</span>" if d.row else ""
    scores = "".join(f"<td class='n'>{_scores(x)}" for x in (d.stable, d.candidate))
    return f"<tr><td><code>{_text(d.request_id)}</code>{row}<td>{inputs}{scores}</tr>"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _scores(values: Iterable[float | None]) -> str:
    return " ".join("not a number" if v is None else f"{v:.4g}" for v in values)


def _decisions(found: Sequence[Look]) -> str:
    """The moment and the reason of each decision, in words."""
    shown = turns(found)
    left_out = max(0, len(shown) - _TURNS)
    kept = shown[: _TURNS // 2] + shown[len(shown) - _TURNS // 2 :] if left_out else shown
    rows = [
        f"<tr><td class='n'>{duration(x.time)}<td>{_text(happened(x.event))}"
        f"<td>{_text(x.event.reason)}</tr>"
        for x in kept
    ]
    if left_out:
        rows.insert(_TURNS // 2, f"<tr><td><td colspan=2>… {left_out} more</tr>")
    table = _table(("#after", "what happened", "why"), "".join(rows))
    return f"<h3>Decisions</h3>{table}"


def _policy(found: Sequence[Look]) -> str:
    policy = found[0].event.policy
    if policy is None:
        return ""
    text = yaml.safe_dump(policy, sort_keys=False, default_flow_style=None)
    head = "<summary>The policy it was decided by</summary>"
    return f"<details>{head}<pre>{_text(text)}</pre></details>"


def _read_policy(found: Sequence[Look]) -> Policy | None:
    try:
        return Policy.model_validate(found[0].event.policy or None)
    except ValidationError:
        return None


def _card(title: str, unit: str, svg: str, caption: str) -> str:
    head = f"<h5>{_text(title)} <span class='note'>{_text(unit)}</span></h5>"
    return f"<figure>{head}{svg}<figcaption>{_text(caption)}</figcaption></figure>"


def _table(head: Sequence[str], rows: str) -> str:
    """`#` before a name: its column holds numbers."""
    cells = "".join(
        f"<th class='n'>{_text(name[1:])}" if name.startswith("#") else f"<th>{_text(name)}"
        for name in head
    )
    table = f"<table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<div class='scroll'>{table}</div>"


def _text(value: str) -> str:
    return html.escape(value, quote=True)


_READING = """<details class='reading'><summary>How to read this page</summary>
<p>A <b>candidate</b> (orange) is compared with the <b>stable</b> version (blue) that users have
now. First in the <b>shadow</b>, where it answers copies of users' requests; then in the
<b>canary</b>, where it answers a growing share of the users.</p>
<p>Each <b>gate</b> has a <b>limit</b> (red, dashed): how much worse the candidate may be. The
orange line is what was seen so far, the shade around it where the truth may lie; the more requests,
the narrower. The candidate is <b>promoted</b> once the shade lies below the limit at every gate. It
is <b>rolled back</b> once the evidence against it reaches the red line of a second picture, at any
gate. Until one of the two, it stays where it is; if its time runs out first, it is
<b>inconclusive</b>, and the policy says what comes of it.</p></details>"""
_STYLE = """
:root{color-scheme:light}
body{font:15px/1.5 system-ui,sans-serif;color:#1a202c;max-width:68rem;margin:2rem auto;
padding:0 1rem;overflow-wrap:break-word}
h1{font-size:1.6rem;margin-bottom:1rem}
h2{font-size:1.3rem;margin:0 0 .3rem}
h3{font-size:1.05rem;margin:1.8rem 0 .5rem;padding-top:1rem;border-top:1px solid #e2e8f0}
h4{font-size:1rem;margin:1rem 0 .1rem}
h5{font-size:.9rem;margin:0 0 .2rem}
h5 span{font-weight:400}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;padding:.4rem .7rem;border-bottom:1px solid #e2e8f0;vertical-align:top}
th{color:#4a5568;font-weight:600}
td{white-space:pre-line;overflow-wrap:break-word}
th{white-space:nowrap}
td:nth-child(4):not(.n){min-width:14rem}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.scroll{overflow-x:auto}
.note,.gate p,summary{color:#4a5568}
.gate p{margin:.1rem 0 .5rem}
section,.reading{margin:1.6rem 0;padding:1.2rem 1.4rem;border:1px solid #e2e8f0;border-radius:.6rem}
.why{margin:.2rem 0 .8rem;font-size:1.05rem;white-space:pre-line}
.badge{color:#fff;border-radius:.8rem;padding:.1rem .6rem;font-size:.8rem;font-weight:600;
white-space:nowrap;vertical-align:.1em}
.badge.good{background:#2f855a}.badge.bad{background:#c53030}.badge.open{background:#975a16}
.facts,.cards{display:grid;gap:.8rem;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr))}
.cards{gap:1.1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr))}
.facts div{font-size:.85rem;color:#4a5568}
.facts b{display:block;font-size:1.25rem;color:#1a202c;font-variant-numeric:tabular-nums}
figure{margin:0;min-width:0}
figure svg{width:100%;height:auto;display:block}
figure svg text{font-family:system-ui,sans-serif!important}
figcaption{font-size:.85rem;color:#4a5568}
.bars{display:grid;grid-template-columns:minmax(5rem,max-content) 1fr max-content;gap:.35rem .8rem;
font-size:.9rem;align-items:center}
.bar{position:relative;height:1rem;background:#f1f4f8;border-radius:.2rem}
.bar b,.bar i,.bar u{position:absolute;top:0;bottom:0;display:block}
.bar b{background:#dd6b20;opacity:.55;border-radius:.2rem}.bar.bad b{background:#c53030}
.bar i{top:calc(50% - 1px);bottom:auto;height:2px;background:#4a5568}
.bar u{width:2px;background:#c53030;margin-left:-1px;top:-.15rem;bottom:-.15rem}
a{color:#2b6cb0;text-decoration:none}
summary{cursor:pointer}
details{margin-top:1rem}
pre{overflow-x:auto;font-size:.85rem;background:#f7fafc;padding:.8rem;border-radius:.4rem}
"""
