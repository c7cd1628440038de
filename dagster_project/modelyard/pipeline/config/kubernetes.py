"""`kubernetes:` of config.yaml: the cluster that training runs in."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""a DNS label"""


Quantity = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]


class KubernetesSettings(BaseModel):
    """`kubernetes:` of config.yaml: where training runs, if not on this machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: Name
    image: str = Field(pattern=r"^[\w.-]+(:\d+)?(/[\w.-]+)*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?$")
    """of this repo's Dockerfile.training, at the commit that is trained"""
    storage: str = Field(pattern=r"^(s3|gs)://[^/?@]+(/[^?]*)?(\?.*)?$")
    """s3://bucket/folder, or gs://…: arrays and checkpoints while a training runs.
    Without keys: what stands here is in the package's manifest and in MLflow."""
    pods: int = Field(1, ge=1, le=1024)
    """that share `training.ranks` equally"""
    cpu: Quantity = "2"
    """of a pod"""
    memory: Quantity = "4Gi"
    """of a pod"""
    disk: Quantity = "10Gi"
    """of a pod, for arrays and checkpoints"""
    gpus: int = Field(0, ge=0)
    """of a pod: one for each of its ranks, or none"""
    gpu_resource: str = "nvidia.com/gpu"
    node_selector: dict[str, str] = {}
    queue: str = Field("", pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$")
    """Kueue's LocalQueue, which admits all pods or none"""
    service_account: Name = "default"
    """by whose cloud identity pods reach the storage"""
    secret: str = ""
    """a Secret with credentials of the storage as variables (AWS_ACCESS_KEY_ID …), if needed"""
    context: str = ""
    """of kubeconfig; empty: the current one, or the cluster that this runs in"""
    hours: float = Field(24, gt=0)
    """then the Job is stopped; the next run goes on from its checkpoint"""
