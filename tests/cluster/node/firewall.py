"""What the node leaves in the kernel's tables, taken out again."""

import subprocess

TABLES = ("filter", "nat", "mangle", "raw")
OURS = ("KUBE-", "CNI-")


def clear(bridge: str) -> None:
    """Remove the bridge, and the chains and sets of kube-proxy, kube-router and CNI's plugins."""
    subprocess.run(["ip", "link", "delete", bridge], capture_output=True)
    for family in ("iptables", "ip6tables"):
        for table in TABLES:
            _clear_table(family, table)
    for name in _lines("ipset", "list", "-name"):
        if name.startswith(OURS) or name.startswith(("kube-router-", "inet6:KUBE-")):
            subprocess.run(["ipset", "destroy", name], capture_output=True)


def _clear_table(family: str, table: str) -> None:
    """Keep each rule that is not of these chains, and does not lead into one."""
    rules = _lines(f"{family}-save", "-t", table)
    kept = [line for line in rules if not any(f" {each}" in f" {line[1:]}" for each in OURS)]
    if len(kept) != len(rules):
        text = "\n".join(kept) + "\n"
        subprocess.run([f"{family}-restore", "-T", table], input=text, text=True, check=True)


def _lines(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
