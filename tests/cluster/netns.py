"""Two network namespaces on a bridge: two hosts, each with its own address, on one machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

HOSTS = {"tw-a": "10.77.0.1", "tw-b": "10.77.0.2"}
BRIDGE = "tw-bridge"
SHELL = "ip netns exec {host}"


def why_not() -> str:
    """Why there can be no namespaces here; "" where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need ip (Debian: iproute2)"
    made = subprocess.run(["ip", "netns", "add", "tw-probe"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", "tw-probe"], capture_output=True)
    return f"no network namespaces here: {made.stderr.strip()}" if made.returncode else ""


@contextmanager
def two_hosts() -> Iterator[str]:
    """The value for --hosts; the namespaces are gone afterwards."""
    remove()
    _ip("netns", "add", BRIDGE)
    _inside(BRIDGE, "link", "add", "br0", "type", "bridge")
    _inside(BRIDGE, "link", "set", "br0", "up")
    for number, (name, address) in enumerate(HOSTS.items()):
        _ip("netns", "add", name)
        _ip("link", "add", f"tw-h{number}", "netns", name, "type", "veth",
            "peer", "name", f"tw-p{number}", "netns", BRIDGE)  # fmt: skip
        _inside(BRIDGE, "link", "set", f"tw-p{number}", "master", "br0", "up")
        _inside(name, "addr", "add", f"{address}/24", "dev", f"tw-h{number}")
        _inside(name, "link", "set", f"tw-h{number}", "up")
        _inside(name, "link", "set", "lo", "up")
    try:
        yield ",".join(f"{name}={address}" for name, address in HOSTS.items())
    finally:
        remove()


def lose(name: str) -> None:
    """The host is gone: its network, then all that runs on it."""
    pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
    _ip("netns", "del", name)
    for pid in pids.stdout.split():
        subprocess.run(["kill", "-9", pid], capture_output=True)


def remove() -> None:
    """Take down whatever stands."""
    for name in (*HOSTS, BRIDGE):
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _inside(name: str, *words: str) -> None:
    _ip("-n", name, *words)
