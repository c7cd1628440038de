#!/usr/bin/env bash
# The tests of `make test-cluster`, on the cluster of MODELYARD_TEST_KUBECONFIG. Releases wait for
# most of their time, so several run at once; what stops a part of the cluster runs alone.
set -euo pipefail
cd "$(dirname "$0")/.."
pytest -n 2 --dist loadgroup -m "not alone" \
  tests/cluster tests/argo/test_kubernetes.py tests/argo/test_admission.py
pytest -m alone tests/cluster
