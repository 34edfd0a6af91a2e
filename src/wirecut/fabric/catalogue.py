"""What is known of accelerators: memory, bandwidth, dense rates, usual wires, each with its source.

find_device("H100-SXM").bytes_per_s
find_device("24GB,936GB/s,71TFLOP/s")       # one given by hand: three numbers
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One kind of accelerator, from its datasheet.

    `flops_per_s` are dense rates by dtype ("fp32", "bf16", "fp16", "fp8", "int8", "fp4").
    `link_bytes_per_s` is what all its NVLink or XGMI links carry together in one direction, 0
    without any; `num_links` how many they are. `pcie` is its slot ("pcie4"), `p2p` whether its
    driver lets devices reach each other over PCIe. `usual_wire` joins it inside a node unless told
    otherwise.
    """

    name: str
    vendor: str
    architecture: str
    memory_bytes: int
    bytes_per_s: float
    flops_per_s: dict[str, float]
    usual_wire: str
    pcie: str
    p2p: bool
    source: str
    link_bytes_per_s: float = 0.0
    num_links: int = 0
    aliases: tuple[str, ...] = ()


def find_device(name: str) -> DeviceSpec:
    """A device by its name in the catalogue, or by three numbers. Raises FabricError with the
    nearest names.
    """
    raise NotImplementedError
