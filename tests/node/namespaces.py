"""Inside the namespaces, as their first process: an address for the node, folders that forget, and nobody left at the end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

ADDRESS = "192.168.250.1"
DEVICE = "node0"


def run(command: Sequence[str]) -> int:
    """Set the namespaces up, run the command in them, and return its exit status. Orphans are reaped meanwhile."""
    _network()
    _mounts()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command has it too, and decides
    child = subprocess.Popen(command)
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            return os.waitstatus_to_exitcode(status) & 0xFF


def _network() -> None:
    """One pair of devices: the node's address, and a way out that leads nowhere."""
    for words in (
        "link set lo up",
        f"link add {DEVICE} type veth peer name {DEVICE}-peer",
        f"addr add {ADDRESS}/24 dev {DEVICE}",
        f"link set {DEVICE} up",
        f"link set {DEVICE}-peer up",
        f"route add default dev {DEVICE}",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    for setting in ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"):
        if (file := Path("/proc/sys") / setting).is_file():
            file.write_text("1")


def _mounts() -> None:
    """State of the daemons goes where nothing stays; names are asked of the cluster's own server."""
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    for folder in ("/run", "/var/log"):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder], check=True)
    names = Path("/run/dtesn-resolv.conf")
    names.write_text(f"nameserver {ADDRESS}\n")
    target = Path(os.path.realpath("/etc/resolv.conf"))
    if not target.exists():  # it was below /run
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    subprocess.run(["mount", "--bind", str(names), str(target)], check=True)
