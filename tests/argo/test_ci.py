"""`modelyard ci`: the typed steps of the release workflow, on a planted skopeo."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from argo.entry import Done, modelyard
from argo.rendered import MODEL
from support import commit, run

from modelyard.delivery.publishing import BILL, LABEL, is_unknown, write_artifact

DIGEST = f"sha256:{'1' * 64}"
SKOPEO = """\
#!/bin/sh
# Answers as the files beside it say.
echo "$@" >> {folder}/asked
cat {folder}/stdout
cat {folder}/stderr >&2
test ! -s {folder}/stderr
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(MODEL, tmp_path / "flight-delay"))
    policy = folder / "argo" / "release.yaml"
    asked = yaml.safe_load(policy.read_text())
    policy.write_text(yaml.safe_dump({k: v for k, v in asked.items() if k != "digest"}))
    (folder / "bentos").mkdir(exist_ok=True)
    (folder / "bentos" / "service.py").write_text("")
    commit(folder, "A release")
    return folder


def service(repo: Path) -> str:
    return run("git", "rev-parse", "HEAD:bentos", cwd=repo).strip()


def ci(repo: Path, *arguments: str, stdout: str = "", stderr: str = "") -> Done:
    folder = repo.parent / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "stdout").write_text(stdout)
    (folder / "stderr").write_text(stderr)
    (folder / "skopeo").write_text(SKOPEO.format(folder=folder))
    (folder / "skopeo").chmod(0o755)
    return modelyard(repo, "ci", *arguments, PATH=f"{folder}:{os.environ['PATH']}")


def test_what_is_desired(repo: Path) -> None:
    asked = yaml.safe_load((repo / "argo" / "release.yaml").read_text())
    done = ci(repo, "desired")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"bento=flight-delay:{asked['version']}",
        f"version={asked['version']}",
        f"repository={asked['image']}",
        f"service={service(repo)}",
    ]


def test_a_published_image_is_named_by_its_digest(repo: Path) -> None:
    image = yaml.safe_load((repo / "argo" / "release.yaml").read_text())["image"]
    known = json.dumps({"Digest": DIGEST, "Labels": {LABEL: service(repo)}})
    assert ci(repo, "published", stdout=known).stdout == f"image={image}@{DIGEST}\n"


def test_an_image_that_is_asked_for_by_its_digest_has_to_be_there(repo: Path) -> None:
    policy = repo / "argo" / "release.yaml"
    policy.write_text(policy.read_text() + f"digest: {DIGEST}\n")
    assert ci(repo, "published", stdout="{}").stdout.endswith(f"@{DIGEST}\n")
    done = ci(repo, "published", stderr="manifest unknown")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"@{DIGEST} cannot be read: manifest unknown" in done.stderr


@pytest.mark.parametrize("labels", [{LABEL: "another tree"}, {}, None])
def test_an_image_of_another_service_is_refused(labels: dict[str, str] | None, repo: Path) -> None:
    done = ci(repo, "published", stdout=json.dumps({"Digest": DIGEST, "Labels": labels}))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("::error::argo/release.yaml: ")
    assert "was built from another bentos/ than this commit's" in done.stderr


def test_what_is_not_published_and_what_nobody_knows(repo: Path) -> None:
    done = ci(repo, "published", stderr="manifest unknown")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.endswith(" is not published yet\n")
    done = ci(repo, "published", stderr="x509: certificate signed by\nunknown authority")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("::error::The registry does not say whether ")
    assert done.stderr.endswith("exists: x509: certificate signed by%0Aunknown authority\n")


@pytest.mark.parametrize(
    ("repository", "said", "unknown"),
    [
        ("quay.io/a/b", "reading manifest 1 in quay.io/a/b: manifest unknown", True),
        ("127.0.0.1:5000/a/b", "name unknown: repository name not known to registry", True),
        ("harbor.example/a/b", "unknown: artifact a/b:1 not found", True),
        ("harbor.example/a/b", "unknown: repository a/b not found", True),
        ("ghcr.io/a/b", "reading manifest 1 in ghcr.io/a/b: denied", True),
        ("quay.io/a/b", "requested access to the resource is denied", False),
        ("quay.io/a/b", "x509: certificate signed by unknown authority", False),
        ("quay.io/a/b", "dial tcp: lookup quay.io: no such host", False),
    ],
)
def test_only_what_a_registry_says_of_an_image_makes_it_unknown(
    repository: str, said: str, unknown: bool
) -> None:
    assert is_unknown(repository, said) == unknown


def test_the_releases_of_an_image(repo: Path, tmp_path: Path) -> None:
    """As `modelyard render` writes them where argo/release.yaml has the digest."""
    path = repo / "argo" / "release.yaml"
    image = yaml.safe_load(path.read_text())["image"]
    before = path.read_text()
    done = ci(repo, "releases", "--image", f"{image}@{DIGEST}")
    assert done.returncode == 0, done.stderr
    assert path.read_text() == before
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    releases = [json.loads(found["first"]), *json.loads(found["next"])]

    path.write_text(yaml.safe_dump(yaml.safe_load(before) | {"digest": DIGEST}))
    rendered = modelyard(repo, "render", "--output", str(tmp_path / "out"))
    assert rendered.returncode == 0, rendered.stderr
    for release in releases:
        file = tmp_path / "out" / release["environment"] / "release" / "workflow.yaml"
        workflow = yaml.safe_load(release["workflow"])
        assert workflow == yaml.safe_load(file.read_text())
        assert workflow["metadata"]["namespace"] == release["namespace"]
    assert len(releases) > 1


@pytest.mark.parametrize("step", ["releases", "attach-sbom"])
def test_an_image_without_its_digest(step: str, repo: Path) -> None:
    done = ci(repo, step, "--image", "ghcr.io/acme/flight-delay:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "give it by its digest" in done.stderr


def test_a_bill_of_materials_refers_to_its_image(tmp_path: Path) -> None:
    image = b'{"mediaType": "application/vnd.docker.distribution.manifest.v2+json"}\r\n'
    write_artifact(tmp_path, image, DIGEST, b"the bill")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["subject"] == {
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "digest": DIGEST,
        "size": len(image),
    }
    (layer,) = manifest["layers"]
    digest = hashlib.sha256(b"the bill").hexdigest()
    assert layer == {"mediaType": BILL, "digest": f"sha256:{digest}", "size": 8}
    assert (tmp_path / digest).read_bytes() == b"the bill"
    assert manifest["artifactType"] == BILL
