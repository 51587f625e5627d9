"""Two hosts on one machine: network namespaces with a cable between them.

Processes of different namespaces have no common loopback interface, so that they reach each other
through their addresses only. They share the file system.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Host:
    """A network namespace.

    Attributes:
        name: Its name.
        address: Its address.
        interface: Its end of the cable.
    """

    name: str
    address: str
    interface: str

    def command(self, *words: str) -> list[str]:
        """Return a command that runs in the namespace."""
        return ["ip", "netns", "exec", self.name, *words]


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Create the hosts and yield them; skip the test where this is not permitted."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need the command ip and root")
    # Names of interfaces have at most 15 characters.
    first, second = (
        Host(f"mllm{os.getpid()}{end}", f"10.99.0.{number}", f"v{os.getpid()}{end}")
        for number, end in ((1, "a"), (2, "b"))
    )
    with ExitStack() as created:
        for host in (first, second):
            done = _ip("netns", "add", host.name, check=False)
            if done.returncode != 0:
                pytest.skip(f"network namespaces are not permitted: {done.stderr.strip()}")
            created.callback(_ip, "netns", "delete", host.name)
        ends = ("name", first.interface, "type", "veth", "peer", "name", second.interface)
        done = _ip("link", "add", *ends, check=False)
        if done.returncode != 0:
            pytest.skip(f"virtual cables are not permitted: {done.stderr.strip()}")
        for host in (first, second):
            _ip("link", "set", host.interface, "netns", host.name)
            inside = ("-n", host.name)
            _ip(*inside, "address", "add", f"{host.address}/24", "dev", host.interface)
            for interface in ("lo", host.interface):
                _ip(*inside, "link", "set", interface, "up")
        yield first, second


def _ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)
