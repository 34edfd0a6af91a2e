"""Kinds of wire: what a person calls each, and whether its ends are on different hosts.

WIRES["pcie4"].words
"""

from wirecut.facts import fact


@fact
class Wire:
    """A kind of wire. `network`: it joins hosts, and its ends share no memory.

    `p2p` False: devices do not reach each other over it, and every byte is copied to the host's
    memory and out again.
    """

    words: str
    network: bool = False
    p2p: bool = True


_PCIE = {
    "pcie5": "PCIe 5",
    "pcie4": "PCIe 4",
    "pcie3": "PCIe 3",
    "pcie2": "PCIe 2",
    "pcie2x4": "PCIe 2 x4",
}

WIRES = {
    "shm": Wire("shared memory"),
    "tcp": Wire("TCP (Gloo)", network=True),
    "nvswitch": Wire("NVSwitch"),
    "nvlink": Wire("NVLink"),
    "xgmi": Wire("XGMI"),
    **{kind: Wire(words) for kind, words in _PCIE.items()},
    **{
        f"{kind}-nop2p": Wire(f"{words} through host memory", p2p=False)
        for kind, words in _PCIE.items()
    },
    "ib": Wire("InfiniBand", network=True),
    "roce": Wire("RoCE", network=True),
    "ethernet": Wire("Ethernet (TCP)", network=True),
}


def words_for(kind: str) -> str:
    """What a person calls this kind of wire."""
    return WIRES[kind].words if kind in WIRES else kind


def is_network(kind: str) -> bool:
    """Whether this kind of wire joins hosts."""
    return kind in WIRES and WIRES[kind].network
