"""Which network interface leads somewhere. Imports no torch.

interface_of(address_facing("10.0.0.1"))    # "eth0"
"""

import fcntl
import socket
import struct
from pathlib import Path

SIOCGIFADDR = 0x8915  # ioctl(2), netdevice(7): the IPv4 address of an interface


def address_facing(host: str) -> str:
    """This host's own address on the way to `host`. Raises OSError for a name that is not known.

    Connecting a datagram socket sends nothing: it only asks the routing table.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str | None:
    """The interface that has this IPv4 address; None when none has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(asking.fileno(), SIOCGIFADDR, request)
            except OSError:
                continue  # no IPv4 address
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


def sent_bytes(table: Path = Path("/proc/net/dev")) -> dict[str, int]:
    """Bytes that each network interface has sent so far, of this process's network namespace."""
    try:
        lines = table.read_text().splitlines()[2:]
    except OSError:
        return {}
    rows = (line.partition(":") for line in lines)
    return {name.strip(): int(counts.split()[8]) for name, _, counts in rows}
