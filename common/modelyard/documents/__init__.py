"""The documents by which the rooms meet: model package, settings files, release record.

Names that they agree on, too: `http`, `metrics`, `prediction_log`, `layout`.

The rooms (`modelyard.pipeline`, `modelyard.serving`, `modelyard.delivery`) never
import one another. What one writes and another reads is defined here once.
"""

from modelyard.documents.errors import UserError
from modelyard.documents.package import (
    Manifest,
    verify_package,
    write_manifest,
)
from modelyard.documents.record import (
    ReleaseEvent,
    image_digest,
    read_record,
    releases,
    stable_version,
)
from modelyard.documents.settings import load_settings
from modelyard.documents.signature import Category, Input, Number, Signature

__all__ = [
    "Category",
    "Input",
    "Manifest",
    "Number",
    "ReleaseEvent",
    "Signature",
    "UserError",
    "image_digest",
    "load_settings",
    "read_record",
    "releases",
    "stable_version",
    "verify_package",
    "write_manifest",
]
