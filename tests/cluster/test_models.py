"""The images that the cluster's tests release are what they are said to be."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from benchmarks.serving import image
from cluster import models
from serving.network import network_of_images

pytestmark = [
    pytest.mark.xdist_group("image"),
    pytest.mark.timeout(1800),  # the first of them builds, perhaps from debootstrap on
    pytest.mark.skipif(image.builder() is None, reason=image.NONE),
]

URL = "http://127.0.0.1:3000"
ASK = """
import json, sys, time, httpx
url, bodies, told = sys.argv[1], json.load(sys.stdin), []
with httpx.Client(base_url=url, trust_env=False, timeout=10) as client:
    for body in bodies:
        began = time.monotonic()
        answer = client.post("/predict", json=body)
        version = answer.headers["x-model-version"]
        told.append([answer.status_code, version, time.monotonic() - began])
print(json.dumps(told))
"""


def ask(version: int, count: int, folder: Path) -> list[tuple[int, str, float]]:
    """Status, version and seconds of each answer of a version's container."""
    with (
        image.runner(models.build()[version]) as runner,
        network_of_images(image.builder()) as own,
        (folder / "log").open("w") as log,
    ):
        command = [*own.enter, *runner.command(BENTOML_HOME="/tmp/bentoml")]
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            status, _ = own.ask("GET", f"{URL}/readyz", within_s=180)
            assert status == 200, (folder / "log").read_text()
            bodies = json.dumps([{"rows": [row]} for row in models.rows(count)])
            done = subprocess.run(
                [*own.enter, sys.executable, "-c", ASK, URL],
                input=bodies, capture_output=True, text=True, check=True,
            )  # fmt: skip
        finally:
            server.terminate()
            server.wait(30)
    return [tuple(each) for each in json.loads(done.stdout)]


def test_a_good_version_answers_well(tmp_path: Path) -> None:
    found = ask(models.OTHER_GOOD, 20, tmp_path)
    assert Counter(each[:2] for each in found) == {(200, "2"): 20}


def test_the_faulty_version_fails_when_it_has_answered_so_many(tmp_path: Path) -> None:
    found = [status for status, _, _ in ask(models.FAULTY, models.FAULTY_FROM + 20, tmp_path)]
    assert found == [200] * models.FAULTY_FROM + [500] * 20


def test_the_slow_version_is_slow_and_good(tmp_path: Path) -> None:
    found = ask(models.SLOW, 3, tmp_path)
    assert all(status == 200 and took > models.SLOW_S for status, _, took in found)


def test_one_version_crashes_at_its_start() -> None:
    with image.runner(models.build()[models.CRASHES]) as runner:
        ended = subprocess.run(runner.command(), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "KeyError: 'WAREHOUSE'" in ended.stderr
