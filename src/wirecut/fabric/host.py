"""What a host is made of besides its devices: cores, NUMA nodes, memory limits, network cards.

    facts = read_host()            # this host, from /proc and /sys
    facts.nics

`read_host` takes the root of the file system to read, so that a copied tree can be read too.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card, or a port of an RDMA device. `kind`: "ethernet", "infiniband" or "roce".

    `bytes_per_s` None: the kernel does not know (a virtual card). `netdev` is the network interface
    that an RDMA device belongs to.
    """

    name: str
    kind: str
    bytes_per_s: float | None
    up: bool
    address: str = ""
    numa: int | None = None
    netdev: str = ""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One host. `memory_bytes`, `cores` and `cpu_limit` (cores' worth of time) are what this
    process may use: a cgroup's where it has less. `shm_bytes` is the size of /dev/shm.
    """

    host: str
    cpu: str
    cores: tuple[int, ...]
    memory_bytes: int
    numa: tuple[tuple[int, ...], ...] = ()
    cpu_limit: float | None = None
    shm_bytes: int | None = None
    nics: tuple[Nic, ...] = ()
