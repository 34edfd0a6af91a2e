"""Which network interface leads somewhere. Imports no torch.

interface_of(address_facing("10.0.0.1"))    # "eth0"
"""

import fcntl
import socket
import struct
from ipaddress import IPv4Interface

SIOCGIFADDR, SIOCGIFNETMASK = 0x8915, 0x891B  # netdevice(7): an interface's IPv4 address, mask


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
    if address.startswith("127."):
        return "lo"
    return next((name for name, card in cards().items() if str(card.ip) == address), None)


def cards() -> dict[str, IPv4Interface]:
    """The network interfaces of this process that have an IPv4 address, loopback left out."""
    found: dict[str, IPv4Interface] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                address = fcntl.ioctl(asking.fileno(), SIOCGIFADDR, request)[20:24]
                mask = fcntl.ioctl(asking.fileno(), SIOCGIFNETMASK, request)[20:24]
                found[name] = IPv4Interface(f"{socket.inet_ntoa(address)}/{socket.inet_ntoa(mask)}")
            except (OSError, ValueError):
                continue  # no IPv4 address
    return {name: card for name, card in found.items() if not card.ip.is_loopback}
