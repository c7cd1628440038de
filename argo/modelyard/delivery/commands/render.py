"""`modelyard render`: writes the Kubernetes YAML of a model repo, or sees that it is up to date."""

import difflib
from pathlib import Path
from typing import Annotated

import typer

from modelyard.delivery.manifests.render import on_kubernetes, rendered_files, write_manifests
from modelyard.delivery.policy import RELEASE_FILE, load_release, project_name
from modelyard.documents import UserError


def render(
    env: Annotated[
        list[str] | None, typer.Option(help="Environment; all on Kubernetes unless given.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 if a file is stale.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("argo/manifests"),
) -> None:
    """Render the Kubernetes manifests that argo/release.yaml asks for."""
    release, model = load_release(), project_name()
    text = RELEASE_FILE.read_text()
    names = env or on_kubernetes(release)
    if not names:
        raise UserError(f"{RELEASE_FILE}: no environment is on Kubernetes: nothing to render")
    if check:
        wanted, left_over = rendered_files(output, release, text, names, model)
        _check(wanted, left_over)
        print(f"{len(wanted)} manifests below {output} are up to date")
        return
    count = write_manifests(output, release, text, names, model)
    print(f"{count} manifests of {', '.join(names)} written below {output}")


def _check(wanted: dict[Path, str], left_over: set[Path]) -> None:
    """Raises: UserError: a file differs, with how much it differs."""
    stale = [f"{path}: not rendered any more" for path in sorted(left_over)]
    for path, content in wanted.items():
        if not path.exists():
            stale.append(f"{path}: missing")
        elif (present := path.read_text()) != content:
            stale.append(f"{path}: {_difference(present, content)}")
    if stale:
        raise UserError(
            "the rendered manifests are stale; run `modelyard render` and commit them\n  "
            + "\n  ".join(stale)
        )


def _difference(present: str, wanted: str) -> str:
    """`+2 -1, first: image: ghcr.io/acme/flight-delay:3`"""
    lines = list(difflib.ndiff(present.splitlines(), wanted.splitlines()))
    added = [line[2:].strip() for line in lines if line.startswith("+ ")]
    removed = [line[2:].strip() for line in lines if line.startswith("- ")]
    first = f"+ {added[0]}" if added else f"- {removed[0]}" if removed else "line ends"
    return f"+{len(added)} -{len(removed)}, first: {first}"
