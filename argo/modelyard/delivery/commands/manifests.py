"""`modelyard manifests`: what a cluster's administrator applies once a version.

To stdout, for `kubectl apply --server-side -f -`; with `--write` to argo/manifests/.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from modelyard.cli.parser import Parser
from modelyard.delivery.commands import MANIFESTS
from modelyard.delivery.manifests.platform import platform_files
from modelyard.documents.version import image_tag


def main(arguments: Sequence[str]) -> int:
    parser = Parser(MANIFESTS)
    parser.add_argument("--write", action="store_true", help="write argo/manifests/")
    parser.add_argument(
        "--delivery-image",
        default=f"modelyard-delivery:{image_tag()}",
        help="where your platform keeps the image of argo/Dockerfile, best by digest",
    )
    options = parser.parse_args(arguments)
    files = platform_files(options.delivery_image)
    if not options.write:
        sys.stdout.write("---\n".join(files.values()))
        return 0
    folder = Path("argo/manifests")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return 0
