"""What one message over each kind of wire takes between two devices, where nothing was measured.

    latency_s, bytes_per_s = pair_wire("pcie4")
    latency_s, bytes_per_s = pair_wire("nvlink", 100e9)     # 4 NVLinks of 25 GB/s

Seconds for n bytes = latency + n / bandwidth, as a library's send and receive sees it.
"""

# Share of the raw rate that a large copy reaches, and seconds of the smallest message.
NVLINK = (5e-6, 0.85)
XGMI = (8e-6, 0.75)
NETWORK = {"ib": (10e-6, 0.92), "roce": (15e-6, 0.88), "ethernet": (60e-6, 0.90)}
# One direction of a slot, as a large copy between two devices sees it.
PCIE = {
    "pcie5": (10e-6, 50e9),
    "pcie4": (10e-6, 24e9),
    "pcie3": (12e-6, 11.5e9),
    "pcie2": (15e-6, 6e9),
    "pcie2x4": (15e-6, 1.5e9),
}
BOUNCED = (10e-6, 0.5)  # through host memory: seconds more, share of the slot's rate


def pair_wire(kind: str, raw_bytes_per_s: float = 0.0) -> tuple[float, float]:
    """(latency in s, bytes/s) of one message between two devices over a wire of this kind.

    `raw_bytes_per_s` is the sum of the links or rails between the two, in one direction; PCIe needs
    none. Raises KeyError for a kind that is not in `wires.WIRES`.
    """
    if kind in ("nvswitch", "nvlink"):
        return NVLINK[0], NVLINK[1] * raw_bytes_per_s
    if kind == "xgmi":
        return XGMI[0], XGMI[1] * raw_bytes_per_s
    if kind in NETWORK:
        latency_s, share = NETWORK[kind]
        return latency_s, share * raw_bytes_per_s
    slot, _, bounced = kind.partition("-")
    latency_s, bytes_per_s = PCIE[slot]
    if bounced:
        return latency_s + BOUNCED[0], bytes_per_s * BOUNCED[1]
    return latency_s, bytes_per_s
