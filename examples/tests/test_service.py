"""`bentos/service.py` over real HTTP, around an untrained model of the declared inputs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from modelyard.serving.testing import Server, draw_rows, serve, write_package

from examples.flights.binary.features import SIGNATURE

SERVICE = Path(__file__).parents[1] / "bentos" / "service.py"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    package = write_package(tmp_path_factory.mktemp("packages") / "1", SIGNATURE)
    with serve(SERVICE, package) as running:
        yield running


def test_one_row_and_many_are_answered(server: Server) -> None:
    for rows in ([SIGNATURE.example], draw_rows(SIGNATURE, 100)):
        answer = server.client.post("/predict", json={"rows": rows})
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["predictions"]) == len(rows)


def test_a_missing_input_is_refused_by_its_name(server: Server) -> None:
    row = draw_rows(SIGNATURE, 1)[0]
    del row[SIGNATURE.inputs[0].name]
    answer = server.client.post("/predict", json={"rows": [row]})
    assert answer.status_code == 422
    assert [e["field"] for e in answer.json()["errors"]] == [SIGNATURE.inputs[0].name]


def test_the_service_says_what_it_serves(server: Server) -> None:
    model = server.client.get("/model").json()
    assert model["task"] == SIGNATURE.task
    assert server.client.get("/docs.json").status_code == 200
