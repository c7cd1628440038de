"""The node itself: etcd, the control plane, containerd, kubelet, kube-proxy, firewall, registries.

All of it listens on loopback or on the pods' own bridge, on ports of its own.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml
from cluster.node import firewall, processes
from cluster.node.processes import Processes, until
from cluster.node.programs import cache, command, program, say, timed, tools

BRIDGE = "modelyard0"
IP = "10.213.0.1"
"""the bridge's: what pods reach the API server and the git server by; loopback can't be that"""
PODS, SERVICES = "10.213.0.0/24", "10.214.0.0/16"
API_VIP, DNS = "10.214.0.1", "10.214.0.10"
# Below the range of node ports (30000-32767) and of ports that are handed out (from 32768 on).
API, ETCD, ETCD_PEERS, PLATFORM_REGISTRY, REGISTRY, GIT = 27443, 27379, 27380, 27500, 27501, 27502
KUBELET, KUBELET_HEALTH, CONTROLLERS, SCHEDULER = 27250, 27248, 27257, 27259
PROXY_METRICS, PROXY_HEALTH, ROUTER_HEALTH = 27249, 27256, 27244
PORTS = {
    API: "the API server", ETCD: "etcd", ETCD_PEERS: "etcd", KUBELET: "kubelet",
    PLATFORM_REGISTRY: "the platform's registry", REGISTRY: "the models' registry",
    GIT: "the git server", CONTROLLERS: "the controllers", SCHEDULER: "the scheduler",
}  # fmt: skip
NAME = "node1"
USER, PASSWORD = "models", "for-tests-on-loopback"
GIT_TOKEN = "for-tests-on-the-bridge"
SHIM_MOUNTS = ("kubelet", "containerd", "state")


def home() -> Path:
    """Where the node's state is; one node a machine."""
    return cache() / "node"


class Node:
    def __init__(self) -> None:
        self.home = home()
        self.processes = Processes(self.home)
        self.kubeconfig = self.home / "admin.conf"
        self.socket = self.home / "containerd.sock"

    def runs(self) -> bool:
        return self.processes.runs("etcd") and self.processes.runs("kubelet")

    @property
    def kept(self) -> bool:
        """Whether it stays until somebody ends it, and not only as long as the run it is for."""
        return (self.home / "kept").exists()

    def keep(self) -> None:
        (self.home / "kept").touch()

    def up(self) -> None:
        """Start the node from nothing; an API server that answers and a node that is Ready."""
        self.down()
        _refuse_taken_ports()
        for folder in ("pki", "cni", "cfg", "run", "logs"):
            (self.home / folder).mkdir(parents=True, exist_ok=True)
        with timed("node"):
            self._certificates()
            self._bridge()
            self._control_plane()
            self._containerd()
            self._kubelet()
            self._network()
            self._servers()
            self._wait("the node is not Ready", self._ready)

    def down(self) -> None:
        """End all that was started, by this run or by one that was killed; quiet if nothing was."""
        names = self.processes.names()
        stale = processes.containers(self.socket)
        if not (names or stale or self.home.exists()):
            return
        if names or stale:
            say("ending the node")
        # The kubelet first, so that it starts nothing again; containerd after its containers.
        last = ("containerd", "etcd")
        for name in sorted(names, key=lambda each: last.index(each) if each in last else -1):
            if name == "containerd":
                self._end_containers()
            self.processes.end(name)
        self._end_containers()
        self._unmount()
        firewall.clear(BRIDGE)
        # Images and layers go, too: what a killed containerd leaves need not be whole.
        shutil.rmtree(self.home, ignore_errors=True)

    def _end_containers(self) -> None:
        for pid in processes.containers(self.socket):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        until(lambda: not processes.containers(self.socket), 10)

    def _unmount(self) -> None:
        below = tuple(f"{self.home}/{each}/" for each in SHIM_MOUNTS)
        mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for each in sorted((path for path in mounted if path.startswith(below)), reverse=True):
            subprocess.run(["umount", "--lazy", each], capture_output=True)

    def _certificates(self) -> None:
        pki = self.home / "pki"
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", pki / "ca.key", "-subj", "/CN=modelyard-test", "-days", "30",
            "-out", pki / "ca.crt",
        )  # fmt: skip
        _openssl("genrsa", "-out", pki / "sa.key", "2048")
        _openssl("rsa", "-in", pki / "sa.key", "-pubout", "-out", pki / "sa.pub")
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
        names = [f"DNS:{each}" for each in names]
        names += [f"IP:{each}" for each in ("127.0.0.1", IP, API_VIP)]
        users = {
            "apiserver": ("/CN=kube-apiserver", names),
            "admin": ("/O=system:masters/CN=admin", ["DNS:admin"]),
            "node": (f"/O=system:nodes/CN=system:node:{NAME}", [f"DNS:{NAME}", f"IP:{IP}"]),
            "controllers": ("/CN=system:kube-controller-manager", ["DNS:controllers"]),
            "scheduler": ("/CN=system:kube-scheduler", ["DNS:scheduler"]),
            "proxy": ("/CN=system:kube-proxy", ["DNS:proxy"]),
            "aggregator": ("/CN=aggregator", ["DNS:aggregator"]),
        }
        for user, (subject, alternative) in users.items():
            self._certificate(user, subject, alternative)
            self._kubeconfig(user)
        shutil.copy(self.home / "cfg" / "admin.conf", self.kubeconfig)

    def _certificate(self, user: str, subject: str, names: list[str]) -> None:
        pki = self.home / "pki"
        (pki / f"{user}.ext").write_text(
            f"subjectAltName={','.join(names)}\nextendedKeyUsage=serverAuth,clientAuth\n"
        )
        _openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", pki / f"{user}.key", "-subj", subject, "-out", pki / f"{user}.csr",
        )  # fmt: skip
        _openssl(
            "x509", "-req", "-in", pki / f"{user}.csr", "-CA", pki / "ca.crt",
            "-CAkey", pki / "ca.key", "-CAcreateserial", "-days", "30",
            "-extfile", pki / f"{user}.ext", "-out", pki / f"{user}.crt",
        )  # fmt: skip

    def _kubeconfig(self, user: str) -> None:
        pki = self.home / "pki"
        here = {"server": f"https://127.0.0.1:{API}", "certificate-authority": str(pki / "ca.crt")}
        who = {
            "client-certificate": str(pki / f"{user}.crt"),
            "client-key": str(pki / f"{user}.key"),
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "modelyard-test", "cluster": here}],
            "users": [{"name": user, "user": who}],
            "contexts": [{"name": "here", "context": {"cluster": "modelyard-test", "user": user}}],
            "current-context": "here",
        }
        (self.home / "cfg" / f"{user}.conf").write_text(yaml.safe_dump(config))

    def _bridge(self) -> None:
        command("ip", "link", "add", BRIDGE, "type", "bridge")
        command("ip", "addr", "add", f"{IP}/24", "dev", BRIDGE)
        command("ip", "link", "set", BRIDGE, "up")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        ipam = {
            "type": "host-local",
            "dataDir": str(self.home / "cni-addresses"),
            "ranges": [[{"subnet": PODS}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipMasq": True}
        plugins = [
            bridge | {"hairpinMode": True, "ipam": ipam},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ]
        conflist = {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}
        (self.home / "cni" / "10-bridge.conflist").write_text(json.dumps(conflist))

    def _control_plane(self) -> None:
        pki, start = self.home / "pki", self.processes.start
        # Ahead of what runs in pods, which may take all of a small machine: an API server that
        # starves makes controllers in pods lose their leases.
        etcd = f"http://127.0.0.1:{ETCD}"
        start(
            "etcd", program("etcd"), f"--data-dir={self.home}/etcd",
            f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{ETCD_PEERS}", "--unsafe-no-fsync",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{ETCD_PEERS}",
            f"--initial-cluster=default=http://127.0.0.1:{ETCD_PEERS}", first=True,
        )  # fmt: skip
        start(
            "apiserver", program("kube-apiserver"), f"--etcd-servers={etcd}",
            f"--secure-port={API}", f"--advertise-address={IP}",
            f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key",
            f"--client-ca-file={pki}/ca.crt",
            f"--kubelet-client-certificate={pki}/admin.crt",
            f"--kubelet-client-key={pki}/admin.key",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki}/sa.pub",
            f"--service-account-signing-key-file={pki}/sa.key",
            f"--service-cluster-ip-range={SERVICES}", "--authorization-mode=Node,RBAC",
            # As clusters have it; that pods are restricted is said by each namespace.
            "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
            # For metrics-server, whose API the server passes on to.
            f"--requestheader-client-ca-file={pki}/ca.crt",
            "--requestheader-allowed-names=aggregator",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={pki}/aggregator.crt",
            f"--proxy-client-key-file={pki}/aggregator.key", first=True,
        )  # fmt: skip
        self._wait("the API server does not answer", self.answers)
        start(
            "controllers", program("kube-controller-manager"),
            f"--kubeconfig={self.home}/cfg/controllers.conf", f"--secure-port={CONTROLLERS}",
            "--bind-address=127.0.0.1", "--use-service-account-credentials",
            # Who holds no lease loses none, on a machine that is busy: nobody starts these again.
            "--leader-elect=false",
            f"--service-account-private-key-file={pki}/sa.key", f"--root-ca-file={pki}/ca.crt",
            f"--cluster-signing-cert-file={pki}/ca.crt", f"--cluster-signing-key-file={pki}/ca.key",
            # The firewall goes by the node's range of addresses.
            "--allocate-node-cidrs", f"--cluster-cidr={PODS}", "--node-cidr-mask-size=24",
            # The pods of a node that was not heard of have no other node to go on at.
            "--node-monitor-grace-period=3m",
            "--horizontal-pod-autoscaler-initial-readiness-delay=5s",
            "--horizontal-pod-autoscaler-cpu-initialization-period=10s", first=True,
        )  # fmt: skip
        start(
            "scheduler", program("kube-scheduler"), f"--secure-port={SCHEDULER}",
            "--bind-address=127.0.0.1", f"--kubeconfig={self.home}/cfg/scheduler.conf",
            "--leader-elect=false", first=True,
        )  # fmt: skip

    def _containerd(self) -> None:
        # A process without CAP_SYS_RESOURCE may give none an oom score below its own.
        config = f"""\
version = 3
root = "{self.home}/containerd"
state = "{self.home}/state"
[grpc]
address = "{self.socket}"
[ttrpc]
address = "{self.socket}.ttrpc"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "localhost:{PLATFORM_REGISTRY}/pause:v1"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{self.home}/cni"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""
        file = self.home / "cfg" / "containerd.toml"
        file.write_text(config)
        containerd = program("containerd")
        path = f"{containerd.parent}:{os.environ['PATH']}"
        self.processes.start("containerd", containerd, "-c", file, PATH=path)
        self._wait("containerd does not answer", self._containerd_answers)

    def _containerd_answers(self) -> bool:
        words = [str(program("ctr")), "--address", str(self.socket), "version"]
        return subprocess.run(words, capture_output=True).returncode == 0

    def _kubelet(self) -> None:
        pki = self.home / "pki"
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": IP,
            "port": KUBELET,
            "healthzPort": KUBELET_HEALTH,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{pki}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "clusterDNS": [DNS],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "evictionHard": {
                "memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%",
            },
            "imageGCHighThresholdPercent": 100,
            "serializeImagePulls": False,
            # A new scrape configuration gets to Prometheus by this, by default after a minute.
            "syncFrequency": "5s",
            "tlsCertFile": f"{pki}/node.crt",
            "tlsPrivateKeyFile": f"{pki}/node.key",
        }  # fmt: skip
        file = self.home / "cfg" / "kubelet.yaml"
        file.write_text(yaml.safe_dump(config))
        self.processes.start(
            "kubelet", program("kubelet"), f"--config={file}", f"--node-ip={IP}",
            f"--kubeconfig={self.home}/cfg/node.conf", f"--hostname-override={NAME}",
            f"--root-dir={self.home}/kubelet",
        )  # fmt: skip

    def _network(self) -> None:
        self.processes.start(
            "proxy", program("kube-proxy"), f"--kubeconfig={self.home}/cfg/proxy.conf",
            "--proxy-mode=iptables", f"--cluster-cidr={PODS}", f"--hostname-override={NAME}",
            "--conntrack-max-per-core=0", f"--metrics-bind-address=127.0.0.1:{PROXY_METRICS}",
            f"--healthz-bind-address=127.0.0.1:{PROXY_HEALTH}",
        )  # fmt: skip
        self._wait("the node has no range of addresses", self._has_range)
        # The plain bridge enforces no NetworkPolicy.
        self.processes.start(
            "firewall", program("kube-router"), f"--kubeconfig={self.home}/cfg/admin.conf",
            "--run-firewall=true", "--run-router=false", "--run-service-proxy=false",
            f"--hostname-override={NAME}", f"--health-port={ROUTER_HEALTH}",
            f"--service-cluster-ip-range={SERVICES}",
        )  # fmt: skip

    def _has_range(self) -> bool:
        return self.kubectl_quietly("get", "node", NAME, "-o", "jsonpath={.spec.podCIDR}") == PODS

    def _servers(self) -> None:
        from cluster.node import images

        images.start_registries(self)
        repositories = self.home / "git"
        repositories.mkdir(exist_ok=True)
        self.processes.start(
            "git", sys.executable, "-m", "git_server", IP, str(GIT), repositories,
            PYTHONPATH=str(Path(__file__).parents[2]), GIT_SERVER_TOKEN=GIT_TOKEN,
        )  # fmt: skip

    def answers(self) -> bool:
        return self.kubectl_quietly("get", "--raw", "/readyz") == "ok"

    def _ready(self) -> bool:
        path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        return self.kubectl_quietly("get", "node", NAME, "-o", path) == "True"

    def kubectl_quietly(self, *arguments: str) -> str | None:
        """What kubectl printed; none where it failed."""
        words = [str(tools() / "kubectl"), "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(words, capture_output=True, text=True)
        return None if done.returncode else done.stdout.strip()

    def pid(self, container: str) -> int:
        """The first process of a container, as this machine numbers it."""
        file = self.home / "state" / "io.containerd.runtime.v2.task" / "k8s.io" / container
        return int((file / "init.pid").read_text())

    def _wait(self, otherwise: str, done: Callable[[], bool], seconds: float = 120) -> None:
        if not until(done, seconds):
            raise NodeFailed(f"{otherwise} after {seconds:.0f} s; logs: {self.home}/logs")


class NodeFailed(Exception):
    """The node did not start; the message says what and where its logs are."""


def _refuse_taken_ports() -> None:
    """A port is free again only a little after its process ended."""
    for port, owner in PORTS.items():
        if not until(lambda port=port: not _taken(port), 20):
            raise NodeFailed(f"port {port}, for {owner}, is taken by another program")


def _taken(port: int) -> bool:
    hexadecimal = f":{port:04X}"
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(hexadecimal) and fields[3] == "0A":
                return True
    return False


def _openssl(*arguments: str | Path) -> None:
    command("openssl", *arguments)
