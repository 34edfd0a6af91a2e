"""What one message over each kind of wire takes between two devices, where nothing was measured.

    latency_s, bytes_per_s = pair_wire("pcie4")
    latency_s, bytes_per_s = pair_wire("nvlink", 100e9)     # 4 NVLinks of 25 GB/s

Seconds for n bytes = latency + n / bandwidth, as a library's send and receive sees it, started by
the GPU itself (a CUDA graph): no launch from the host in it.
"""

ASSUMED_LAUNCH_S = 3e-6  # to start one small operation on a device that nobody has timed
# Seconds of the smallest message by what a GPU's NVLinks carry together in one direction: NVLink 5
# (two dies a GPU), NVLink 4, and what came before.
NVLINK_LATENCY = ((800e9, 9e-6), (350e9, 6e-6), (0.0, 9e-6))
NVLINK_SHARE = 0.73  # of the raw rate, after packet heads and the library's flags
XGMI = (10e-6, 0.75)
NETWORK = {"ib": (18e-6, 0.85), "roce": (18e-6, 0.85), "ethernet": (90e-6, 0.90)}
# One direction of a slot, raw: 16 lanes (pcie2x4: 4), line code taken off.
PCIE = {"pcie5": 63e9, "pcie4": 31.5e9, "pcie3": 15.75e9, "pcie2": 8e9, "pcie2x4": 2e9}
PCIE_SHARE = 0.62  # of a slot's raw rate, after packet heads (256 B of payload and less)
PCIE_LATENCY = 7.4e-6
# What is left of a slot's rate when more than two devices send to each other at once through the
# root complex of the hosts that have such slots. Hosts differ: of PCIe 4, one box of L40S has 0.25
# in collectives, others 0.7 to 1 in what serving over them shows (benchmarks/serving.md).
ROOT_SHARE = {"pcie5": 0.65, "pcie4": 0.7, "pcie3": 1.0, "pcie2": 1.0, "pcie2x4": 1.0}
# Through host memory: seconds, and what a library's copy through shared memory reaches at most; a
# byte crosses the slot of each end and the host's memory twice.
BOUNCED_LATENCY, BOUNCED_SHARE, HOST_COPY = 11e-6, 0.5, 3.7e9


def pair_wire(kind: str, raw_bytes_per_s: float = 0.0) -> tuple[float, float]:
    """(latency in s, bytes/s) of one message between two devices over a wire of this kind.

    `raw_bytes_per_s` is the sum of the links or rails between the two, in one direction; PCIe needs
    none. Raises KeyError for a kind that is not in `wires.WIRES`.
    """
    if kind in ("nvswitch", "nvlink"):
        latency_s = next(s for least, s in NVLINK_LATENCY if raw_bytes_per_s >= least)
        return latency_s, NVLINK_SHARE * raw_bytes_per_s
    if kind == "xgmi":
        return XGMI[0], XGMI[1] * raw_bytes_per_s
    if kind in NETWORK:
        latency_s, share = NETWORK[kind]
        return latency_s, share * raw_bytes_per_s
    slot, _, bounced = kind.partition("-")
    bytes_per_s = PCIE[slot] * PCIE_SHARE
    if bounced:
        return BOUNCED_LATENCY, min(bytes_per_s * BOUNCED_SHARE, HOST_COPY)
    return PCIE_LATENCY, bytes_per_s
