"""What a person or a workflow calls: `modelyard release …`, `render`, `manifests`, `ci`.

Options and exit codes are here; what is done is on the floors below.
"""

from modelyard.cli import Command

RELEASE = Command(
    "release",
    "Bring a version to 100 % of an environment's traffic, or back.",
    "modelyard.delivery.commands.app:release",
)
RENDER = Command(
    "render",
    "Render the Kubernetes manifests that argo/release.yaml asks for.",
    "modelyard.delivery.commands.app:render",
)
MANIFESTS = Command(
    "manifests",
    "What a cluster's administrator applies, once for each version of the platform.",
    "modelyard.delivery.commands.manifests:main",
)
CI = Command(
    "ci",
    "A step of the workflow that publishes an image and releases it.",
    "modelyard.delivery.commands.ci:main",
)
COMMANDS = (RELEASE, RENDER, MANIFESTS, CI)
