"""One Kubernetes node on this machine, for tests: from Go modules, Debian and PyPI's wheels."""
