#!/usr/bin/env bash
# The tests of `make test-cluster`, on the cluster of MODELYARD_TEST_KUBECONFIG. Releases wait for
# most of their time, so two run at once; what stops a part of the cluster runs alone.
# MODELYARD_CLUSTER_TESTS=short leaves out those marked `long` and `alone`.
set -euo pipefail
cd "$(dirname "$0")/.."
tests=(tests/cluster tests/argo/test_kubernetes.py tests/argo/test_admission.py)
if [ "${MODELYARD_CLUSTER_TESTS:-}" = short ]; then
  exec pytest -n 2 --dist loadgroup -m "not alone and not long" "${tests[@]}"
fi
pytest -n 2 --dist loadgroup -m "not alone" "${tests[@]}"
pytest -m alone tests/cluster
