"""The image that `bentoml containerize` makes of a Bento, as far as BentoML lets it be said.

BentoML renders the Dockerfile from its own template: one stage, in which it installs uv, makes
/app/.venv, installs the requirements, and copies the Bento. It writes our commands behind `RUN`,
and one of several lines may go on with other instructions: that is how the install gets a stage
of its own, and the image only its outcome (docs/decisions/0036).

Relies on: the template's stage `base-container`, its order of commands, `/app/.venv`, and that the
first command of a distribution is its compiler and git.
Upstream: none known for stages or hashes. A Dockerfile template of one's own, which bentofile.yaml
may name, would have to follow theirs (bentoml/BentoML#5120).
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bentoml.images import Image

REQUIREMENTS = "requirements.txt"
"""all that is installed, with hashes; beside service.py in a Bento, as are the next two"""
INSTALLER = "uv.txt"
"""what installs it, with hashes"""
WHEELS = "wheels"
TORCH_BACKEND = os.environ.get("UV_TORCH_BACKEND") or (
    "" if os.environ.get("UV_FIND_LINKS") else "cpu"
)
"""which build of torch is meant, where one is needed (see uv's documentation); among wheels
of one's own it is theirs, for with a backend uv asks torch's index nevertheless"""

# Nothing is installed without its hash. Nothing is built: that would take a compiler, and runs
# code of the package. BentoML adds itself without a hash: the constraint has it.
INSTALL = f"""true
FROM base-container AS install
ENV UV_REQUIRE_HASHES=1 UV_NO_BUILD=1 UV_CONSTRAINT=/install/pins.txt PIP_BREAK_SYSTEM_PACKAGES=1
ARG UV_TORCH_BACKEND{TORCH_BACKEND and "=" + TORCH_BACKEND}
ARG UV_DEFAULT_INDEX
ARG UV_FIND_LINKS
COPY ./src/{REQUIREMENTS} ./src/{INSTALLER} /install/
RUN grep '==' /install/{REQUIREMENTS} > /install/pins.txt && \\
    (command -v uv > /dev/null || \\
    pip install --no-cache-dir --require-hashes -r /install/{INSTALLER})"""

# Flight is Arrow's RPC; it, the tests and headers are 60 MB of what no server opens. pip and
# the like come with the base. Docker's Python images have no bytecode of the standard library,
# and a read-only root keeps none: each start took 1.3 s longer without what is imported here.
FINISH = """cd /app/.venv/lib/python3*/site-packages && \\
    rm -rf pyarrow/*flight* pyarrow/include pyarrow/src pyarrow/tests numpy/tests numpy/*/tests
FROM base-container
ENV VIRTUAL_ENV=/app/.venv PATH=/app/.venv/bin:${PATH} BENTOML_HOME=/tmp/bentoml
COPY --from=install --chown=root:root /app /app
RUN rm -rf /usr/bin/pip* /usr/local/bin/pip* && \\
    find /usr/lib/python3* /usr/local/lib/python3* -maxdepth 2 -regextype posix-extended \\
    -regex '.*/(ensurepip|(pip|setuptools|wheel)(-.*)?|pkg_resources)' -exec rm -rf {} + ; \\
    python -c 'import modelyard.serving.api.routes, modelyard.serving.inference.predictor' && \\
    bentoml serve --help > /dev/null && rm -rf "$BENTOML_HOME\""""


def serving_image(image: "Image | None", folder: Path) -> "Image | None":
    """In a Bento's build context, the image with its pinned requirements; else none is needed.

    Args:
        image: a team's own, to change; its packages of the system are in the outcome.
        folder: with service.py.

    Raises:
        BentoMLException: the image asks for Python packages, which would have no hashes.
    """
    if not (folder / REQUIREMENTS).is_file():
        return image
    from bentoml.exceptions import BentoMLException
    from bentoml.images import Image

    image = image or Image(python_version=f"{sys.version_info.major}.{sys.version_info.minor}")
    if image.python_requirements:
        raise BentoMLException(
            "image: Python packages go into pyproject.toml's [project.optional-dependencies] "
            "serving, so that they are pinned with hashes"
        )
    # The file is the whole closure: BentoML must not resolve it a second time.
    image.lock_python_packages = False
    # All of it comes as wheels: no compiler and no git, which BentoML would install first.
    if image.distro:
        del image.commands[0]
    if image.distro == "debian" and image.commands:
        wanted = ["apt-get update", *image.commands, "rm -rf /var/lib/apt/lists/*"]
        image.commands = [" && ".join(wanted)]
    image.distro = ""
    image.commands.append(INSTALL)
    lines = (folder / REQUIREMENTS).read_text().splitlines()
    image.python_requirements = "\n".join(x for x in lines if not x.startswith("bentoml==")) + "\n"
    image.post_commands.insert(0, FINISH)
    return image.build_include(WHEELS)
