"""The real server writes, the real release reads: log, metrics over Prometheus, routes, headers."""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from argo.prometheus_server import BINARY, until
from argo.prometheus_server import server as prometheus
from support import ROOT, Once

from modelyard.delivery.cluster.prometheus import Prometheus
from modelyard.delivery.cluster.reach import answer
from modelyard.delivery.local.prediction_log import PredictionLog, Request
from modelyard.delivery.local.predictions import Answers
from modelyard.delivery.local.reference import read_reference
from modelyard.delivery.local.replay import body
from modelyard.delivery.ports import Routes
from modelyard.documents.http import PREDICT_ROUTE, REQUEST_ID_HEADER, VERSION_HEADER
from modelyard.documents.signature import Category, Number, Signature
from modelyard.serving.testing import Server, draw_rows, serve, write_package

pytestmark = pytest.mark.xdist_group("prometheus")

SIGNATURE = Signature(
    task="binary",
    target="late",
    inputs=(
        Number(name="distance", minimum=0, maximum=5000),
        Number(name="wind", nullable=True),
        Category(name="dest", values=("BOS", "LAX"), nullable=True, open=True),
    ),
    classes=("on time", "late"),
)
SIZES = (1, 1, 2, 3, 5, 8, 13, 21)
"""rows of each request"""


class Asked(NamedTuple):
    """What a running server was asked, and how it answered."""

    server: Server
    package: Path
    since: float
    rows: dict[str, list[dict[str, Any]]]
    """by request id"""
    scores: dict[str, list[float]]


@pytest.fixture(scope="module")
def asked(once: Once) -> Iterator[Asked]:
    """A server that answered some requests well, and refused one."""
    package = once("contract-package", lambda f: write_package(f / "1", SIGNATURE)) / "1"
    with serve(ROOT / "template" / "bentos" / "service.py", package) as running:
        found = Asked(running, package, time.time(), {}, {})
        for number, size in enumerate(SIZES):
            name, rows = f"request-{number}", draw_rows(SIGNATURE, size, seed=number)
            reply = post(running, name, body(rows))
            assert reply.status_code == 200, reply.text
            assert reply.headers[VERSION_HEADER] == "1"
            assert reply.headers[REQUEST_ID_HEADER] == name
            found.rows[name] = rows
            found.scores[name] = [each["score"] for each in reply.json()["predictions"]]
        assert post(running, "refused", body([{}])).status_code == 422
        yield found


def post(running: Server, name: str, content: bytes) -> Any:
    headers = {"content-type": "application/json", REQUEST_ID_HEADER: name}
    return running.client.post(PREDICT_ROUTE, content=content, headers=headers)


def logged(asked: Asked) -> list[Request]:
    """All that was answered, once it is in files."""
    log, found = PredictionLog(asked.server.predictions, asked.since), list[Request]()

    def all_there() -> bool:
        found.extend(log.requests())
        return len(found) >= len(SIZES)

    until(all_there)
    return found


def test_the_prediction_log(asked: Asked) -> None:
    found = {request.id: request for request in logged(asked)}
    assert found.keys() == asked.rows.keys(), "what was refused is not in it"
    for name, request in found.items():
        assert request.asks_the_same(Request(name, asked.rows[name], []))
        assert all(row.keys() == asked.rows[name][0].keys() for row in request.inputs)
        assert [score for [score] in request.scores] == pytest.approx(asked.scores[name])


def test_a_description_of_the_model(asked: Asked) -> None:
    found = answer(asked.server.url, "flights.example", "s3cret")
    assert (found.status, found.version) == (200, "1")


@pytest.mark.skipif(BINARY is None, reason="no prometheus here (apt-get install prometheus)")
def test_counts_over_prometheus_and_the_same_scores_by_the_log(
    asked: Asked, tmp_path: Path
) -> None:
    """Both sources sample the same row of a request, and cut scores at the same edges."""
    port = int(asked.server.url.rpartition(":")[2])
    with prometheus(tmp_path, {"1": port}) as url:
        source = Prometheus(url, "flight-delay", "production")
        routes = Routes(stable=1)

        def counted() -> bool:
            stable = source.counts(routes, asked.since).stable
            return stable is not None and stable.requests == len(SIZES) + 1

        until(counted)
        arm = source.counts(routes, asked.since).stable
    assert arm is not None
    assert arm.failures == 1 and sum(arm.latency.values()) == len(SIZES) + 1
    logged(asked)  # all of it is in files
    reference = read_reference(asked.package)
    log = PredictionLog(asked.server.predictions, asked.since)
    answers = Answers((log, PredictionLog(tmp_path / "none", 0.0)), reference, None)
    answers.read()
    scores = dict(arm.scores)
    scores[math.inf] += scores.pop(1.0)  # the release's own last edge is without an end
    assert scores == answers.scores(0)
    assert sum(scores.values()) == len(SIZES)
    assert np.count_nonzero([*scores.values()]) > 1


def test_a_body_as_a_release_sends_it_is_the_signatures() -> None:
    """A number that is missing is null, as JSON has no NaN."""
    assert json.loads(body([{"wind": math.nan}])) == {"rows": [{"wind": None}]}
