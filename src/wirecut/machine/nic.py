"""Which network interface leads somewhere. Imports no torch.

interface_of(address_facing("10.0.0.1"))    # "eth0"
"""

import contextlib
import fcntl
import socket
import struct
from ipaddress import IPv4Interface

FAR_AWAY = "192.0.2.1"  # TEST-NET-1 (RFC 5737): nobody's, so the way to it is the default route
SIOCGIFADDR, SIOCGIFNETMASK = 0x8915, 0x891B  # netdevice(7): an interface's IPv4 address, mask


def address_towards(master: str) -> str:
    """This host's address as others on the way to `master` see it. Raises OSError.

    A host's own name is often loopback to itself (127.0.1.1 in /etc/hosts): then it is that of the
    card with the default route, or of the first.
    """
    facing = address_facing(master)
    if not facing.startswith("127."):
        return facing
    with contextlib.suppress(OSError):
        return address_facing(FAR_AWAY)
    return next((str(card.ip) for card in cards().values()), facing)


def address_facing(host: str) -> str:
    """This host's own IPv4 address on the way to `host`. Raises OSError for a name that has none.

    Connecting a datagram socket sends nothing: it only asks the routing table.
    """
    found = socket.getaddrinfo(host, 9, socket.AF_INET, socket.SOCK_DGRAM)
    family, kind, protocol, _, address = found[0]
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
