"""A saved text of a vendor's tool as a fabric, whichever tool it was: planning from a laptop.

    read_saved(Path("topo.txt").read_text(), device="H100-SXM")

Takes `nvidia-smi topo -m`, `amd-smi topology` (tables or JSON), `rocm-smi --showtopo`, and the NVML
snapshot that `wirecut` writes.
"""

import msgspec

from wirecut.errors import FabricError
from wirecut.fabric.amd_topo import looks_like_amd_topo, parse_amd_topo
from wirecut.fabric.catalogue import find_device
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.host import HostFacts
from wirecut.fabric.nvidia_topo import looks_like_nvidia_topo, parse_nvidia_topo
from wirecut.fabric.nvml import FORMAT, NvmlSnapshot
from wirecut.fabric.nvml_fabric import fabric_from_nvml
from wirecut.fabric.topology import topology_to_fabric

EXPECTED = (
    "expected what `nvidia-smi topo -m`, `amd-smi topology` or `rocm-smi --showtopo` prints, an "
    "NVML snapshot, or a fabric.json of wirecut"
)
MAX_CHARS = 8_000_000


def read_saved(text: str, device: str | None = None) -> Fabric:
    """The fabric of the box that the text is from. `device` names its GPUs, for a text that does
    not. Raises FabricError for a text of no known kind, a damaged one, and when `device` is needed.
    """
    if len(text) > MAX_CHARS:
        raise FabricError(f"a text of {len(text)} characters is no saved topology: {EXPECTED}")
    spec = find_device(device) if device else None
    if FORMAT in text and text.lstrip().startswith("{"):
        snapshot = read_snapshot(text)
        try:
            return fabric_from_nvml(snapshot, HostFacts(snapshot.host or "host0", "", (), 0), spec)
        except (ValueError, OverflowError) as error:
            raise FabricError(f"a snapshot that makes no sense: {error}") from error
    if looks_like_amd_topo(text):  # first: rocm-smi's header is like nvidia-smi's
        return topology_to_fabric(parse_amd_topo(text), spec)
    if looks_like_nvidia_topo(text):
        return topology_to_fabric(parse_nvidia_topo(text), spec)
    raise FabricError(f"no topology in this text: {EXPECTED}")


def looks_saved(text: str) -> bool:
    """Whether `read_saved` knows this kind of text."""
    snapshot = FORMAT in text and text.lstrip().startswith("{")
    return snapshot or looks_like_amd_topo(text) or looks_like_nvidia_topo(text)


def read_snapshot(text: str) -> NvmlSnapshot:
    """An NVML snapshot from its JSON. Raises FabricError."""
    try:
        snapshot = msgspec.json.decode(text, type=NvmlSnapshot)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise FabricError(f"not an NVML snapshot: {error}. Save it whole") from error
    if snapshot.format != FORMAT:
        raise FabricError(f"a snapshot of format {snapshot.format!r}, expected {FORMAT!r}")
    return snapshot
