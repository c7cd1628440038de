"""The four ports of one environment on Kubernetes."""

from modelyard.delivery.cluster.client import Cluster
from modelyard.delivery.cluster.prometheus import BLIND, Prometheus
from modelyard.delivery.cluster.reach import GatewayReach
from modelyard.delivery.cluster.record import ConfigMapRecord
from modelyard.delivery.cluster.router import GatewayRouter
from modelyard.delivery.cluster.runtime import DeploymentRuntime
from modelyard.delivery.manifests.objects import Target
from modelyard.delivery.policy import Kubernetes
from modelyard.delivery.ports import Ports
from modelyard.documents import UserError, image_digest


def kubernetes_ports(target: Target, environment: Kubernetes) -> Ports:
    """The four ports of one environment, by the cluster that this process can reach.

    Raises:
        UserError: there is none, or the policy asks for what is not there on Kubernetes.
    """
    if environment.policy.gates.predictions is not None:
        raise UserError(
            f"environments.{target.environment}: the predictions gate needs both versions' "
            "prediction logs in one place, which Kubernetes does not give: set it to null"
        )
    cluster, metrics = Cluster(target.namespace), environment.metrics
    record = ConfigMapRecord(cluster, target)
    source = Prometheus(target.prometheus, target.model, target.namespace, metrics)

    def digest(version: int) -> str | None:
        return image_digest(record.releases(), version)

    return Ports(
        router=GatewayRouter(cluster, target),
        runtime=DeploymentRuntime(cluster, target, digest),
        source=source,
        record=record,
        reach=GatewayReach(cluster, target, source, environment),
        blind=BLIND if metrics.source == "servers" and not metrics.requests else "",
    )
