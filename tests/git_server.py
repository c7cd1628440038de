"""Git's own HTTP server below one that asks for a token, as a forge does."""

import base64
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class GitServer(ThreadingHTTPServer):
    """Serves the bare repositories of a folder; `users` has who came with the right token."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], folder: Path, token: str) -> None:
        super().__init__(address, _Handler)
        self.folder, self.token = folder, token
        self.users: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    def respond(self) -> None:
        server = self.server
        assert isinstance(server, GitServer)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        given = self.headers.get("authorization", "").partition(" ")[2]
        user, _, token = base64.b64decode(given).decode().partition(":")
        if token != server.token:
            self.send_response(401)
            self.send_header("www-authenticate", 'Basic realm="git"')
            self.send_header("content-length", "0")
            self.end_headers()
            return
        server.users.append(user)
        path, _, query = self.path.partition("?")
        variables = {
            "GIT_PROJECT_ROOT": str(server.folder), "GIT_HTTP_EXPORT_ALL": "1",
            "REMOTE_USER": user, "PATH_INFO": path, "QUERY_STRING": query,
            "REQUEST_METHOD": self.command, "CONTENT_TYPE": self.headers.get("content-type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
            "CONTENT_LENGTH": str(len(body)),
        }  # fmt: skip
        answer = subprocess.run(
            ["git", "http-backend"], input=body, env=os.environ | variables, capture_output=True
        ).stdout
        head, _, content = answer.partition(b"\r\n\r\n")
        lines = [line.split(": ", 1) for line in head.decode().split("\r\n")]
        status = next((v for k, v in lines if k == "Status"), "200 OK")
        self.send_response(int(status.split()[0]))
        for key, value in lines:
            self.send_header(key, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = respond

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(folder: Path, token: str) -> Iterator[tuple[str, list[str]]]:
    """Its URL on loopback, and the users it saw."""
    with GitServer(("127.0.0.1", 0), folder, token) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", server.users
        server.shutdown()


if __name__ == "__main__":
    host, port, folder = sys.argv[1:]
    with GitServer((host, int(port)), Path(folder), os.environ["GIT_SERVER_TOKEN"]) as server:
        server.serve_forever()
