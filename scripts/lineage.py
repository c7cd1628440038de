"""A picture of a model repo's lineage in Dagster's own UI.

    python scripts/lineage.py build/demo/flight-delay docs/images/lineage.png

Needs Chromium (`apt-get install chromium`) and a repo whose `make setup` has run.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

GROUPS = '{"query": "{assetNodes {groupName}}"}'


def main(repo: Path, picture: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("no chromium on the PATH: apt-get install chromium")
    module = tomllib.loads((repo / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [repo.resolve() / ".venv/bin/dagster-webserver",
         "-m", module["code_location_target_module"], "-h", "127.0.0.1", "-p", str(port)],
        cwd=repo,
        env={**os.environ, "DAGSTER_HOME": str((repo / ".dagster").resolve())},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        groups = sorted(_groups(url, deadline=time.monotonic() + 60))
        opened = urllib.parse.quote(",".join(f"global@global:{group}" for group in groups))
        picture.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as profile:
            subprocess.run(
                [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", "--disable-sync",
                 f"--user-data-dir={profile}", "--window-size=2700,1330", "--hide-scrollbars",
                 "--virtual-time-budget=20000", f"--screenshot={picture.resolve()}",
                 f"{url}/asset-groups?expanded={opened}"],
                check=True, timeout=120, stderr=subprocess.DEVNULL,
            )  # fmt: skip
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _groups(url: str, deadline: float) -> set[str]:
    """The asset groups, once the server answers."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/graphql", GROUPS.encode(), headers)
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                nodes = json.load(reply)["data"]["assetNodes"]
                return {node["groupName"] for node in nodes}
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                sys.exit(f"Dagster's web server did not answer on {url} within a minute")
            time.sleep(0.5)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
