"""A real BentoML server around a package of each task."""

import itertools
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest
from serving.connection import outlasts

from modelyard.documents.signature import Task
from modelyard.serving.codec.types import ARROW, JSON
from modelyard.serving.testing import Server, serve

pytestmark = pytest.mark.xdist_group("serving")

Servers = Callable[[Task], Server]
ROW = {"distance": 1400.0, "hour": 17, "wind": 12.5, "carrier": "AA", "dest": "LAX"}


def predict(server: Server, *rows: object, **headers: str) -> httpx.Response:
    return server.client.post("/predict", json={"rows": rows}, headers=headers)


def metric(server: Server, pattern: str) -> float:
    """The sum of all samples that a pattern matches from their start."""
    lines = server.client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if re.match(pattern, line))


def test_an_idle_connection_is_for_the_client_to_close(server: Servers) -> None:
    outlasts(server("binary"), "/predict", ROW, 6.5)  # uvicorn's own limit is 5 s


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_scores_are_those_of_the_training(
    task: Task, server: Servers, package: Callable[[Task], Path]
) -> None:
    """All rows of the reference at once, each kind of missing value among them."""
    frame = pl.read_parquet(package(task) / "reference.parquet")
    scores = [n for n in frame.columns if n.startswith("score")]
    answer = predict(server(task), *frame.drop(scores).to_dicts())
    assert answer.status_code == 200
    predictions = answer.json()["predictions"]
    expected = frame.select(scores).rows()
    for prediction, row in zip(predictions, expected, strict=True):
        score = prediction["score"]
        assert score == pytest.approx(list(row) if task == "multiclass" else row[0], abs=1e-6)
    if task == "binary":
        assert {p["class"] for p in predictions} == {"on time", "late"}
        assert all((p["class"] == "late") == (p["score"] >= 0.5) for p in predictions)
    elif task == "multiclass":
        classes = ["early", "late", "lost"]
        assert all(p["class"] == classes[p["score"].index(max(p["score"]))] for p in predictions)
    else:
        assert all(p.keys() == {"score"} for p in predictions)


def test_one_row_and_many_score_alike(server: Servers) -> None:
    rows = [ROW | {"hour": hour} for hour in range(24)]
    together = predict(server("binary"), *rows).json()["predictions"]
    alone = [predict(server("binary"), row).json()["predictions"][0] for row in rows]
    assert [p["score"] for p in alone] == pytest.approx([p["score"] for p in together], abs=1e-6)


def test_headers_and_version(server: Servers) -> None:
    answer = predict(server("binary"), ROW, **{"x-request-id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    assert answer.headers["x-model-version"] == "1" and answer.json()["version"] == 1
    made = [predict(server("binary"), ROW).headers["x-request-id"] for _ in range(2)]
    assert len(set(made)) == 2
    refused = predict(server("binary"), {}, **{"x-request-id": "abc-2"})
    assert refused.headers["x-request-id"] == "abc-2"
    assert refused.headers["x-model-version"] == "1"


@pytest.mark.parametrize("bad", ["x" * 129, "tab\tbed", ""])
def test_a_request_id_that_cannot_be_logged_is_replaced(bad: str, server: Servers) -> None:
    answer = predict(server("binary"), ROW, **{"x-request-id": bad})
    assert answer.status_code == 200 and len(answer.headers["x-request-id"]) == 32


def test_model_tells_what_is_served(server: Servers) -> None:
    model = server("binary").client.get("/model").json()
    assert (model["name"], model["version"], model["task"]) == ("flight-delay", 1, "binary")
    assert [i["name"] for i in model["signature"]["inputs"]] == list(ROW)
    assert re.fullmatch("[0-9a-f]{64}", model["package"])
    assert model["git_commit"] == "0" * 40 and model["metrics"] == {}


def test_openapi_describes_the_signature(server: Servers) -> None:
    document = server("binary").client.get("/docs.json").json()
    schemas = document["components"]["schemas"]
    row = schemas["Row"]
    assert row["required"] == list(ROW) and row["additionalProperties"] is False
    assert row["properties"]["distance"] == {
        "type": "number", "minimum": 0, "maximum": 5000, "description": "miles",
    }  # fmt: skip
    assert row["properties"]["hour"]["type"] == "integer"
    wind = row["properties"]["wind"]
    assert (wind["type"], wind["nullable"]) == ("number", True)
    assert -wind["minimum"] == wind["maximum"] == float(np.finfo(np.float32).max)
    assert row["properties"]["carrier"]["enum"] == ["AA", "B6", "UA"]
    assert "enum" not in row["properties"]["dest"]  # open
    assert row["example"] == ROW
    assert schemas["Prediction"]["properties"]["class"]["enum"] == ["on time", "late"]
    post = document["paths"]["/predict"]["post"]
    refusals = {"400", "405", "408", "413", "415", "422", "500", "503", "504"}
    assert {"200", *refusals} == post["responses"].keys()
    assert "retry-after" in post["responses"]["503"]["headers"]
    assert {JSON, ARROW} == post["requestBody"]["content"].keys()
    assert "/model" in document["paths"] and "/readyz" in document["paths"]


def test_the_examples_of_the_document_are_accepted(server: Servers) -> None:
    client = server("binary").client
    post = client.get("/docs.json").json()["paths"]["/predict"]["post"]
    examples = post["requestBody"]["content"][JSON]["examples"]
    assert list(examples) == ["one row", "many rows", "columns"]
    for example in examples.values():
        assert client.post("/predict", json=example["value"]).status_code == 200


NAN = json.dumps({"rows": [ROW | {"wind": float("nan")}]})
MALFORMED: list[tuple[str, str | bytes, int, int | None, str | None]] = [
    ("no JSON", "{", 400, None, None),
    ("empty", "", 400, None, None),
    ("not UTF-8", b"\xff\xfe", 400, None, None),
    ("a lone surrogate", '{"rows": [{"carrier": "\\ud800"}]}', 400, None, None),
    ("deep", "[" * 100_000, 400, None, None),
    ("a list", "[]", 400, None, None),
    ("null", "null", 400, None, None),
    ("no rows", "{}", 400, None, None),
    ("rows is an object", '{"rows": {}}', 400, None, None),
    ("columns is a list", '{"columns": []}', 400, None, None),
    ("rows twice", '{"rows": [], "rows": []}', 400, None, None),
    ("a field twice", json.dumps({"rows": [ROW]}).replace("}]", ', "hour": 9}]'), 400, None, None),
    ("more than rows", '{"rows": [], "x": 1}', 400, None, None),
    ("empty rows", '{"rows": []}', 422, None, None),
    ("a row is a number", '{"rows": [1]}', 422, 0, ""),
    ("a row is null", json.dumps({"rows": [ROW, None]}), 422, 1, ""),
    ("unknown field", json.dumps({"rows": [ROW | {"color": 1}]}), 422, 0, "color"),
    (
        "missing field",
        json.dumps({"rows": [ROW, {k: v for k, v in ROW.items() if k != "hour"}]}),
        422, 1, "hour",
    ),
    ("wrong type", json.dumps({"rows": [ROW | {"distance": "far"}]}), 422, 0, "distance"),
    ("a boolean", json.dumps({"rows": [ROW | {"distance": True}]}), 422, 0, "distance"),
    ("a nested value", json.dumps({"rows": [ROW | {"carrier": ["AA"]}]}), 422, 0, "carrier"),
    ("out of range", json.dumps({"rows": [ROW | {"hour": 24}]}), 422, 0, "hour"),
    ("not whole", json.dumps({"rows": [ROW | {"hour": 2.5}]}), 422, 0, "hour"),
    ("unknown category", json.dumps({"rows": [ROW | {"carrier": "ZZ"}]}), 422, 0, "carrier"),
    ("null", json.dumps({"rows": [ROW | {"carrier": None}]}), 422, 0, "carrier"),
    ("NaN", NAN, 422, 0, "wind"),
    ("Infinity", NAN.replace("NaN", "Infinity"), 422, 0, "wind"),
    ("-Infinity", NAN.replace("NaN", "-Infinity"), 422, 0, "wind"),
    ("too large", NAN.replace("NaN", "1e400"), 422, 0, "wind"),
    ("too large an integer", NAN.replace("NaN", "1" + "0" * 400), 422, 0, "wind"),
    ("too many rows", json.dumps({"rows": [{}] * 10_001}), 413, None, None),
    ("too many bytes", " " * (16 * 2**20 + 1), 413, None, None),
]  # fmt: skip


@pytest.mark.parametrize(("what", "body", "status", "row", "field"), MALFORMED)
def test_bad_input_is_refused_with_row_and_field(
    what: str, body: str | bytes, status: int, row: int | None, field: str | None, server: Servers
) -> None:
    headers = {"content-type": "application/json"}
    answer = server("binary").client.post("/predict", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    refusal = answer.json()
    assert refusal["error"]
    found = [(e["row"], e["field"]) for e in refusal["errors"]]
    assert found == ([] if row is None else [(row, field)]), refusal
    if field:
        named = f" is {what};" if what in ("NaN", "Infinity", "-Infinity") else ""
        assert f"row {row}: {field}:{named} " in refusal["error"]


def test_a_duplicate_key_is_named(server: Servers) -> None:
    client, headers = server("binary").client, {"content-type": "application/json"}
    body = json.dumps({"rows": [ROW, ROW]}).replace("}]", ', "carrier": "UA"}]')
    answer = client.post("/predict", content=body, headers=headers)
    assert (answer.status_code, "'carrier'" in answer.json()["error"]) == (400, True)
    # A colon in a value is no key.
    answer = client.post("/predict", json={"rows": [ROW | {"carrier": "a:b"}]})
    assert [e["field"] for e in answer.json()["errors"]] == ["carrier"]


def test_another_content_type_is_refused(server: Servers) -> None:
    answer = server("binary").client.post("/predict", data={"rows": "1"})
    assert answer.status_code == 415 and "application/json" in answer.json()["error"]


def test_a_content_encoding_is_refused(server: Servers) -> None:
    client, body = server("binary").client, json.dumps({"rows": [ROW]})
    for coding, status in (("gzip", 415), ("br", 415), ("identity", 200)):
        headers = {"content-type": JSON, "content-encoding": coding}
        answer = client.post("/predict", content=body, headers=headers)
        assert answer.status_code == status
        assert (f"send the body plain, not as {coding}" in answer.text) == (status == 415)


def test_the_wrong_verb_is_refused(server: Servers) -> None:
    assert server("binary").client.get("/predict").status_code == 405


def test_every_prediction_is_logged_with_its_request_id(server: Servers) -> None:
    running = server("binary")
    rows = [ROW, ROW | {"wind": None, "hour": 3}]
    answer = predict(running, *rows, **{"x-request-id": "log-me"}).json()
    predict(running, ROW | {"hour": 99}, **{"x-request-id": "refused"})
    end = time.monotonic() + 20
    while time.monotonic() < end:
        files = running.predictions.glob("[!.]*.parquet")
        entries = [row for file in files for row in pl.read_parquet(file).to_dicts()]
        mine = [e for e in entries if e["request_id"] == "log-me"]
        if len(mine) == 2:
            break
        time.sleep(0.05)
    assert [e["row"] for e in mine] == [0, 1] and [e["inputs"] for e in mine] == rows
    assert [e["score"] for e in mine] == [p["score"] for p in answer["predictions"]]
    assert all(e["version"] == 1 for e in mine)
    assert not [e for e in entries if e["request_id"] == "refused"]


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_metrics_count_predictions_and_scores_by_version(task: Task, server: Servers) -> None:
    running = server(task)
    count = r'modelyard_predictions_total{.*model="flight-delay",version="1"}'
    scored = r'modelyard_score_count{model="flight-delay",version="1"}'
    asked = scored.replace("score_count", "request_score_count")
    before = metric(running, count), metric(running, scored)
    requests = metric(running, asked)
    predict(running, ROW, ROW, ROW)
    assert metric(running, asked) == requests + 1, "one row of each request"
    predict(running, ROW | {"hour": -1})
    assert (metric(running, count), metric(running, scored)) == (before[0] + 3, before[1] + 3)
    assert metric(running, "modelyard_prediction_log_lost_total") == 0
    assert metric(running, "bentoml_service_request_total.*/predict") > 0
    metrics = running.client.get("/metrics").text
    assert metrics.count("modelyard_score_bucket") > 10
    named = r'bentoml_service_request_duration_seconds_bucket{endpoint="/predict",.*le="([\d.]+)"'
    edges = sorted({float(edge) for edge in re.findall(named, metrics)})
    assert edges[0] < 0.001 and edges[-1] > 60
    assert all(after / before < 1.11 for before, after in itertools.pairwise(edges[:-1]))


def test_paths_that_no_route_has_are_one_endpoint(server: Servers) -> None:
    client = server("binary").client
    for index in range(20):
        assert client.get(f"/x{index}").status_code == 404
        assert client.get(f"/static_content/x{index}").status_code == 404
    assert client.post("/predict/", json={"rows": [ROW]}).status_code == 404
    known = ("/", "/docs.json", "/schema.json", "/livez", "/readyz", "/healthz", "/metrics")
    for path in (*known, "/static_content/index.css"):
        assert client.get(path).status_code == 200, path
    counted = set(re.findall('endpoint="([^"]*)"', client.get("/metrics").text))
    assert {"other", "/static_content/*", "/predict", "/docs.json", "/readyz"} <= counted
    assert counted <= {*known, "other", "/static_content/*", "/predict"}


def test_what_the_log_cannot_take_is_counted(
    tmp_path: Path, package: Callable[[Task], Path], service: Path
) -> None:
    folder = tmp_path / "log"
    folder.write_text("no folder")
    environment = {"MODELYARD_PREDICTION_LOG": str(folder)}
    with serve(service, package("binary"), **environment) as running:
        assert predict(running, ROW, ROW).status_code == 200
        end = time.monotonic() + 20
        while not (lost := metric(running, "modelyard_prediction_log_lost_total")):
            assert time.monotonic() < end
            time.sleep(0.05)
        assert lost == 2 and "rows are lost" in running.log


TEAM_CODE = """
import rules
from modelyard.serving import ModelService, Prediction, Row, service

@service()
class Service(ModelService):
    max_rows = 3

    async def predict(self, rows: list[Row]) -> list[Prediction]:
        if rows[0]["hour"] == 13:
            raise IndexError("planted")
        if rows[0]["hour"] == 14:
            return [{"score": float("nan")} for _ in rows]
        if rows[0]["hour"] == 15:
            return []
        return [p | {"score": p["score"] * rules.FACTOR} for p in super().predict(rows)]
"""


def test_a_teams_code_runs_around_the_model(
    tmp_path: Path, package: Callable[[Task], Path], server: Servers
) -> None:
    """Its result is served; its faults are 500s with their request id in the log."""
    (tmp_path / "service.py").write_text(TEAM_CODE)
    (tmp_path / "rules.py").write_text("FACTOR = 0.5\n")
    plain = predict(server("binary"), ROW).json()["predictions"][0]["score"]
    with serve(tmp_path / "service.py", package("binary")) as running:
        half = predict(running, ROW).json()["predictions"][0]["score"]
        assert half == pytest.approx(plain / 2, abs=1e-6)
        for hour, reason in ((13, "planted"), (14, "scores nan"), (15, "0 predictions for 1 rows")):
            answer = predict(running, ROW | {"hour": hour}, **{"x-request-id": f"hour-{hour}"})
            assert answer.status_code == 500 and f"hour-{hour}" in answer.json()["error"]
            assert f"request hour-{hour} failed" in running.log and reason in running.log
        assert predict(running, ROW, ROW, ROW, ROW).status_code == 413
        assert predict(running, ROW).status_code == 200
