"""A version in production, as a release has it in its hands."""

from modelyard.delivery.manifests.objects import Target

TARGET = Target(
    model="flight-delay",
    environment="production",
    namespace="flight-delay-production",
    image="ghcr.io/acme/flight-delay",
    version=2,
    digest="sha256:" + "0" * 64,
    host="flight-delay.example.com",
    gateway="edge/public",
    prometheus="http://prometheus.monitoring.svc:9090",
)
