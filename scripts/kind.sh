#!/usr/bin/env bash
# A cluster for `make test-cluster` by kind (needs docker, kind, kubectl, helm): Argo Workflows,
# Envoy Gateway, kube-prometheus-stack, and a registry on 127.0.0.1:5001. Prints its kubeconfig.
#   config=$(bash scripts/kind.sh) && MODELYARD_TEST_KUBECONFIG=$config make test-cluster
set -euo pipefail
name=modelyard-test registry=modelyard-registry port=5001
config=$HOME/.kube/$name
mkdir -p "$(dirname "$config")"
exec 3>&1 1>&2 # what is said on the way is no output

docker inspect "$registry" >/dev/null 2>&1 ||
  docker run --detach --restart=always --publish "127.0.0.1:$port:5000" --name "$registry" registry:2
kind get clusters | grep -qx "$name" ||
  kind create cluster --name "$name" --kubeconfig "$config" --wait 120s --config - <<EOF
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
containerdConfigPatches:
  - |-
    [plugins."io.containerd.grpc.v1.cri".registry]
      config_path = "/etc/containerd/certs.d"
EOF
export KUBECONFIG=$config
for node in $(kind get nodes --name "$name"); do
  docker exec -i "$node" sh -c "mkdir -p /etc/containerd/certs.d/localhost:$port &&
    cat >/etc/containerd/certs.d/localhost:$port/hosts.toml" <<<"[host.\"http://$registry:5000\"]"
done
docker network connect kind "$registry" 2>/dev/null || true

kubectl apply --server-side -f - <<EOF
apiVersion: v1
kind: ConfigMap
metadata: {name: local-registry-hosting, namespace: kube-public}
data: {localRegistryHosting.v1: 'host: "localhost:$port"'}
EOF
kubectl create namespace argo --dry-run=client -o yaml | kubectl apply -f -
kubectl apply --server-side -n argo \
  -f https://github.com/argoproj/argo-workflows/releases/download/v4.0.5/install.yaml
kubectl -n argo patch configmap workflow-controller-configmap --type merge \
  -p '{"data":{"workflowRestrictions":"templateReferencing: Strict\n"}}'
kubectl -n argo set env deployment/workflow-controller DEFAULT_REQUEUE_TIME=1s
helm upgrade --install eg oci://docker.io/envoyproxy/gateway-helm --version v1.9.1 \
  --namespace envoy-gateway-system --create-namespace --wait --timeout 10m
helm upgrade --install kube-prometheus-stack kube-prometheus-stack \
  --repo https://prometheus-community.github.io/helm-charts \
  --namespace monitoring --create-namespace --wait --timeout 10m \
  --set grafana.enabled=false --set alertmanager.enabled=false --set nodeExporter.enabled=false
helm upgrade --install metrics-server metrics-server \
  --repo https://kubernetes-sigs.github.io/metrics-server --namespace kube-system \
  --set 'args={--kubelet-insecure-tls}' --wait --timeout 5m
# The node's own Gateway and its monitor, but for the image that the node brings.
manifests=$(dirname "$0")/../tests/cluster/node/manifests
sed 's/image: "$envoy", //' "$manifests/gateway.yaml" | kubectl apply --server-side -f -
sed -n '/^kind: PodMonitor/,$p' "$manifests/prometheus.yaml" |
  sed '1i apiVersion: monitoring.coreos.com/v1' | kubectl apply --server-side -f -
kubectl -n gateway-system wait gateway/gateway --for=condition=Programmed --timeout=5m
kubectl -n argo rollout status deployment/workflow-controller --timeout=5m
echo "$config" >&3
