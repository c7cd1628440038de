"""The users of the cluster's tests miss no failure, and know whose it is."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cluster.traffic import Traffic

from modelyard.delivery.local.process_supervisor import wait_until

JSON = "application/json"
# Score asked for → status, version, content type, text; None closes the connection.
SAID = {
    1: (200, "1", JSON, "{}"),
    2: (200, "2", JSON, "{}"),
    3: (500, "2", JSON, '{"error": "the service failed"}'),
    4: (503, "2", "text/plain", "no healthy upstream"),
    5: (404, None, "text/plain", ""),
    6: None,
}


class Gateway(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hosts: set[str] = set()

    def do_POST(self) -> None:
        self.hosts.add(self.headers["host"])
        [row] = json.loads(self.rfile.read(int(self.headers["content-length"])))["rows"]
        said = SAID[row["case"]]
        if said is None:
            self.close_connection = True
            return
        status, version, kind, text = said
        self.send_response(status)
        for name, value in {"x-model-version": version, "content-type": kind}.items():
            if value:
                self.send_header(name, value)
        self.send_header("x-request-id", f"case-{row['case']}")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *_: object) -> None:
        pass


@pytest.fixture
def gateway() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_each_answer_is_kept_and_each_failure_has_an_owner(gateway: str) -> None:
    rows = [{"case": case} for case in SAID]
    with Traffic(gateway, "model.example", rows, rate=200) as users:
        assert wait_until(lambda: len(users.answers) >= 60, 60)
    assert Gateway.hosts == {"model.example"}
    found = {each.request_id: each for each in users.answers}
    assert not found["case-1"].failed and found["case-3"].by_model
    assert {each.status for each in users.failed()} == {500, 503, 404, 0}
    # Of those, only case 3 is what the model server of version 2 said.
    assert {each.request_id for each in users.failed_beside(2)} == {"case-4", "case-5", ""}
    assert users.failed_beside(1) == users.failed()
    assert users.by_version().keys() == {1, 2}
    assert len(users.failed()) + users.by_version().total() == len(users.answers)
    later = max(each.sent for each in users.answers) + 1
    assert not users.failed(since=later) and not users.by_version(since=later)
