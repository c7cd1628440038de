"""The release policy is valid, and every environment it names is there."""

from modelyard.delivery import load_release, project_name


def test_release_policy_is_valid():
    release = load_release()
    assert release.image.endswith("/" + project_name())
    assert "local" in release.environments
