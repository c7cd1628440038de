"""The release policy: `argo/release.yaml` of a model repo."""

import ipaddress
import re
import tomllib
from pathlib import Path
from string import Template
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)

from modelyard.documents import UserError, load_settings

RELEASE_FILE = Path("argo/release.yaml")

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(value: Any) -> Any:
    """`30s`, `10m`, `1h`, `250ms` as seconds; a bare number would leave the unit to guessing."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is no duration; write it with its unit, such as 30s or 10m")
    return float(match[1]) * _UNITS[match[2]]


def _text(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"


Duration = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(gt=0),
    PlainSerializer(_text, when_used="json"),
]
"""seconds; in YAML a number with its unit (`250ms`, `30s`, `10m`, `1h`)"""

Weight = Annotated[int, Field(ge=1, le=100)]
"""per cent of live traffic"""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Deploy(_Strict):
    """How long the candidate may take to be ready and in reach."""

    max_duration: Duration = 120.0


class Shadow(_Strict):
    """Mirrored traffic: the candidate answers a copy, users get stable's answer."""

    min_requests: int = Field(default=500, ge=1)
    """answered by the candidate, and paired with stable's answer where predictions are compared"""
    max_duration: Duration = 1800.0
    replay: bool = False
    """local environments only: where live traffic is thinner than `replay_rate`, logged requests
    make up for it, in shadow and nowhere else"""


class Ramp(_Strict):
    """Weights that the evidence chooses."""

    harm_budget: float = Field(ge=1, allow_inf_nan=False)
    """failed requests that the candidate may cost more than stable would have had; to be well
    above what chance alone makes of stable's own failures, or good candidates spend it, too"""


class Canary(_Strict):
    """Live traffic, a growing share of it to the candidate: by fixed steps, or by a ramp."""

    steps: tuple[Weight, ...] = (5, 25, 50)
    """empty under a ramp"""
    ramp: Ramp | None = None
    min_requests: int = Field(default=500, ge=1)
    """answered by the candidate at each step before the next; under a ramp in all"""
    min_duration: Duration = 1.0
    """a step, or the whole ramp, lasts at least this long"""
    max_duration: Duration = 1800.0
    """a step, or the whole ramp, that is undecided by then makes the release inconclusive"""
    on_inconclusive: Literal["hold", "roll_back"] = "roll_back"
    """shadow and steps alike; hold: the candidate keeps running, at `hold_weight`"""
    hold_weight: int = Field(default=0, ge=0, le=100)

    @model_validator(mode="before")
    @classmethod
    def _one_way(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("ramp") is None:
            return given
        if given.get("steps"):
            raise ValueError(
                "steps and ramp exclude one another: steps are fixed weights, "
                "a ramp chooses them; leave one of the two out"
            )
        return {**given, "steps": ()}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        steps = self.steps
        if not steps and self.ramp is None:
            raise ValueError("steps [] has no weight; give some, such as [5, 25, 50], or a ramp")
        if any(after <= before for before, after in zip(steps, steps[1:], strict=False)):
            raise ValueError(f"steps {list(steps)} must rise")
        if self.min_duration > self.max_duration:
            raise ValueError(
                f"min_duration {self.min_duration:g}s is longer than "
                f"max_duration {self.max_duration:g}s"
            )
        if self.hold_weight and self.on_inconclusive != "hold":
            raise ValueError("hold_weight has no meaning unless on_inconclusive is hold")
        if self.hold_weight and self.ramp:
            raise ValueError(
                "hold_weight has no meaning under a ramp: "
                "a candidate that is held would go on spending the harm budget"
            )
        if steps and self.hold_weight > steps[0]:
            raise ValueError(
                f"hold_weight {self.hold_weight} is above the first step {steps[0]}: "
                "an undecided candidate would gain traffic"
            )
        return self


class Errors(_Strict):
    """The candidate may fail more often than stable by at most `margin`.

    A failure is any answer outside of 2xx: a candidate that refuses what stable accepts
    is as bad as one that breaks.
    """

    margin: float = Field(default=0.01, gt=0, lt=1)
    """difference of the failure rates; that there is none at all can't be proven"""


class Latency(_Strict):
    """A quantile of the candidate's latency against the same quantile of stable's.

    The candidate may take `ratio` times as long, or `slack` longer, whichever is more:
    a ratio of two small numbers is mostly noise.
    """

    quantile: float = Field(default=0.95, gt=0, lt=1)
    ratio: float = Field(default=1.5, ge=1)
    slack: Duration = 0.01


class Predictions(_Strict):
    """In shadow: how far the candidate's scores may be from stable's for the same requests.

    A pair disagrees if its scores differ by more than `tolerance` standard deviations of
    stable's own scores (Euclidean distance for the scores of several classes).
    """

    tolerance: float = Field(default=1.5, gt=0)
    max_disagreement: float = Field(default=0.2, gt=0, lt=1)
    """share of a request's rows that disagree, on average"""
    slices: tuple[str, ...] = ()
    """inputs whose values are judged one by one, too; a small slice holds nothing up"""


class Scores(_Strict):
    """Live: how far the distribution of the candidate's scores may be from stable's."""

    max_shift: float = Field(default=0.1, gt=0, lt=1)
    """largest difference of the two distribution functions (Kolmogorov's distance)"""


class Gates(_Strict):
    """What the candidate is held against. A gate set to `null` is off."""

    errors: Errors = Errors()
    latency: Latency | None = Latency()
    predictions: Predictions | None = Predictions()
    scores: Scores | None = None


class Policy(_Strict):
    """How a version gets to 100 % of an environment's traffic."""

    alpha: float = Field(default=0.01, gt=0, lt=0.5)
    """chance that a release as good as stable is rolled back, over all gates and looks"""
    interval: Duration = 5.0
    """between two looks at the evidence"""
    deploy: Deploy = Deploy()
    shadow: Shadow = Shadow()
    canary: Canary = Canary()
    gates: Gates = Gates()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        shortest = min(self.shadow.max_duration, self.canary.max_duration)
        if self.interval > shortest:
            raise ValueError(
                f"interval {self.interval:g}s is longer than a phase may last ({shortest:g}s)"
            )
        return self


class Local(_Strict):
    """This machine: Envoy in front of `bentoml serve` processes."""

    platform: Literal["local"]
    port: int = Field(default=8080, ge=1, le=65535)
    """of Envoy on 127.0.0.1: where users call the model"""
    replay_rate: float = Field(default=100, gt=0, le=10_000)
    """requests a second of `--traffic replay:…`, and of a shadow with `replay`"""
    policy: Policy = Policy()


PLACEHOLDERS = ("model", "namespace", "version", "window", "clusters")


def _query(text: str) -> str:
    template = Template(text)
    unknown = [name for name in template.get_identifiers() if name not in PLACEHOLDERS]
    if unknown or not template.is_valid():
        known = ", ".join(f"${name}" for name in PLACEHOLDERS)
        what = f"${unknown[0]}" if unknown else "a lone $"
        raise ValueError(f"{what} is no placeholder; there are {known}, and $$ for a dollar sign")
    return text


Query = Annotated[str, Field(min_length=1), AfterValidator(_query)]
"""PromQL with placeholders"""


class Metrics(_Strict):
    """What Prometheus is asked for each version. A query given here replaces the source's own.

    All of them give running totals over every pod that lived within `$window`. Placeholders:
    `$model`, `$namespace`, `$version`, `$window` (such as `630s`), `$clusters` (a regular
    expression for Envoy Gateway's clusters of this version).
    """

    source: Literal["servers", "envoy-gateway"] = "servers"
    """who counts requests and failures: BentoML in the pods, or the Gateway's Envoys (latency and
    scores: always the pods)"""
    requests: Query | None = None
    """by status code or its class: one label, whatever its name"""
    latency: Query | None = None
    """cumulative by `le`"""
    latency_unit: Literal["s", "ms"] | None = None
    """of `le` in `latency`"""
    scores: Query | None = None
    """cumulative by `le`"""
    resets: Query | None = None
    """one number, which changes when totals began anew"""
    age: Query | None = None
    """one number: seconds since the oldest scrape that counts; empty: nothing is scraped"""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.latency_unit and not self.latency:
            raise ValueError("latency_unit belongs to a latency query of your own")
        return self


_NAMESPACE = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_LABEL = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"


def _listed(value: Any) -> Any:
    """One alone needs no list."""
    return [value] if isinstance(value, str) else value


def _peer(text: str) -> str:
    if len(text) <= 63 and re.fullmatch(_NAMESPACE, text):
        return text
    try:
        if "/" in text:
            ipaddress.ip_network(text)
            return text
    except ValueError as error:
        raise ValueError(f"{text!r} is no range of addresses: {error}") from None
    raise ValueError(
        f"{text!r} is neither a namespace, such as monitoring, nor a range of addresses, such as "
        "10.0.0.0/16"
    )


def is_range(peer: str) -> bool:
    """Whether one of `Peers` is a range of addresses; it is a namespace otherwise."""
    return "/" in peer


Peers = Annotated[
    tuple[Annotated[str, AfterValidator(_peer)], ...],
    BeforeValidator(_listed),
    Field(min_length=1),
]
"""namespaces, or ranges of addresses (CIDR), that a NetworkPolicy lets in"""


def _address(url: str) -> str:
    """Of a server, nothing secret or more particular in it."""
    parts = urlsplit(url)
    try:
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        usable = False
    if not usable:
        raise ValueError(f"{url!r} is no URL of a server, such as http://name.namespace.svc:9090")
    if parts.username or parts.password:
        raise ValueError("holds credentials; this file is committed")
    if parts.query or parts.fragment:
        raise ValueError(f"{url!r} has more than an address and a path")
    return url.rstrip("/")


Address = Annotated[str, AfterValidator(_address)]


def _labels(labels: dict[str, str]) -> dict[str, str]:
    for key, value in labels.items():
        if not re.fullmatch(rf"([a-z0-9][-a-z0-9.]*/)?{_LABEL}", key):
            raise ValueError(f"{key!r} is no name of a Kubernetes label")
        if not re.fullmatch(f"({_LABEL})?", value):
            raise ValueError(f"{key}: {value!r} is no value of a Kubernetes label")
    return labels


SCRAPE_S = 5
"""between two scrapes of a pod of the model, by the PodMonitor that is rendered"""


class Kubernetes(_Strict):
    """A namespace of a cluster with the Gateway API and Prometheus.

    The defaults are Envoy Gateway's and kube-prometheus-stack's own.
    """

    platform: Literal["kubernetes"]
    namespace: str = Field(pattern=_NAMESPACE, max_length=63)
    host: str = Field(min_length=1)
    """host name of the HTTPRoute"""
    gateway: str = Field(default="gateway-system/gateway", pattern=r"^[-a-z0-9]+/[-a-z0-9.]+$")
    """namespace/name of the Gateway that the HTTPRoute attaches to"""
    gateway_url: Address | None = None
    """where a release's own request goes through that Gateway; None: the address and the listener
    that the Gateway itself names"""
    probe: bool = True
    """a release sends that request before a candidate counts as deployed"""
    proxies: Peers = ("envoy-gateway-system",)
    """where the Gateway's proxies run: the NetworkPolicy lets them in"""
    prometheus: Address = "http://kube-prometheus-stack-prometheus.monitoring.svc:9090"
    scrapers: Peers = ("monitoring",)
    """where Prometheus runs: the NetworkPolicy lets it in"""
    monitor_labels: Annotated[dict[str, str], AfterValidator(_labels)] = {
        "release": "kube-prometheus-stack"
    }
    """by which Prometheus' operator selects PodMonitors"""
    metrics: Metrics = Metrics()
    approval: bool = False
    """the workflow waits for a person before the promotion, and watches the candidate meanwhile"""
    replicas: int = Field(default=2, ge=1)
    max_replicas: int = Field(default=10, ge=1)
    cpu: str = Field(default="500m", pattern=r"^([1-9]\d*m?|\d+\.\d+)$")
    """requested by a pod; there is no limit: throttling would show as latency"""
    memory: str = Field(default="1Gi", pattern=r"^[1-9]\d*(\.\d+)?[KMGT]i?$")
    """requested by a pod, and its limit"""
    policy: Policy = Policy()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.replicas > self.max_replicas:
            raise ValueError(f"replicas {self.replicas} is above max_replicas {self.max_replicas}")
        if self.policy.interval < SCRAPE_S:
            raise ValueError(
                f"policy.interval {self.policy.interval:g}s: Prometheus scrapes every {SCRAPE_S} "
                f"s, and looks in between tell nothing; give {SCRAPE_S}s or more"
            )
        if self.policy.shadow.replay:
            raise ValueError("policy.shadow.replay: only a local environment has logs to replay")
        return self


Environment = Annotated[Local | Kubernetes, Field(discriminator="platform")]


DIGEST = r"^sha256:[0-9a-f]{64}$"


class ReleasePolicy(_Strict):
    """`argo/release.yaml`, whether it asks for a version or not.

    In a cluster it does not: the policy is an object there that stands from release to release,
    and the workflow names the version.
    """

    version: int | None = Field(default=None, ge=1)
    """the desired version: of the registered model, its Bento and its image tag"""
    image: str = Field(pattern=r"^[^\s:@]+(:\d+/[^\s:@]+)?$")
    """image repository, without a tag"""
    digest: str | None = Field(default=None, pattern=DIGEST)
    """of the image of `version`; images are run by digest where it is known"""
    repository: str | None = None
    """where a rollback in a cluster is written back to, on a branch of its own: the model repo's
    URL for git, without credentials; None: it is not"""
    environments: dict[str, Environment] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        local = [name for name, e in self.environments.items() if isinstance(e, Local)]
        if len(local) > 1:
            raise ValueError(f"environments {', '.join(local)}: only one can be local")
        return self

    @field_validator("repository")
    @classmethod
    def _no_credentials(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "")
        # `git@` of an SSH URL is no secret; what HTTPS has before the @ may well be one.
        if parts.password or (parts.username and parts.scheme in ("http", "https")):
            raise ValueError(
                "holds credentials; they belong into the Secret that the release mounts"
            )
        return url

    def for_version(self, version: int, digest: str | None = None) -> "Release":
        """Asking for this version, by this image; else by the image that it is known by here."""
        known = self.digest if version == self.version else None
        return Release.model_validate({**dict(self), "version": version, "digest": digest or known})


class Release(ReleasePolicy):
    """The whole of `argo/release.yaml`, as in a model repo."""

    version: int = Field(ge=1)


def load_release(path: Path = RELEASE_FILE) -> Release:
    """The release policy of the model repo in the working directory.

    Raises:
        UserError: missing, or a line of it does not fit (`path:line: key: what`).
    """
    return load_settings(path, Release)


def load_policy(path: Path = RELEASE_FILE) -> ReleasePolicy:
    """The release policy where a step runs: in a model repo, or with the policy object mounted.

    Raises:
        UserError: as of `load_release`.
    """
    if not path.exists():
        raise UserError(
            f"{path}: no such file; run this in the folder of a model repo. A workflow has it from "
            "the ConfigMap modelyard-release: `kubectl apply --server-side -f "
            "argo/manifests/ENVIRONMENT` makes that"
        )
    return load_settings(path, ReleasePolicy)


def environment_name(release: ReleasePolicy, name: str | None) -> str:
    """The environment that is meant; without a name the only one.

    Raises:
        UserError: there is more than one.
    """
    if name is None and len(release.environments) > 1:
        raise UserError(
            f"{RELEASE_FILE}: which environment? --env {', '.join(release.environments)}"
        )
    return name or next(iter(release.environments))


def environment(release: ReleasePolicy, name: str) -> Local | Kubernetes:
    """An environment by name.

    Raises:
        UserError: there is none of that name.
    """
    try:
        return release.environments[name]
    except KeyError:
        known = ", ".join(release.environments)
        raise UserError(f"{RELEASE_FILE}: no environment {name!r}; it has {known}") from None


def project_name(path: Path = Path("pyproject.toml")) -> str:
    """The model's name: `[project] name` of the model repo in the working directory.

    Raises:
        UserError: not in a model repo.
    """
    try:
        return tomllib.loads(path.read_text())["project"]["name"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run this in the folder of a model repo") from None
    except (tomllib.TOMLDecodeError, KeyError):
        raise UserError(f"{path}: no [project] name in it") from None
