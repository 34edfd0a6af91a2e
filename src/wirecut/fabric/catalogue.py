"""What is known of accelerators: memory, bandwidth, dense rates, usual wires, each with its source.

    find_device("H100-SXM").bytes_per_s
    find_device("NVIDIA H100 80GB HBM3").name   # as drivers print it: "H100-SXM"
    find_device("24GB,936GB/s,71TFLOP/s")       # one given by hand: three numbers

The numbers are in `devices.toml` beside this file, read when first asked for.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec

from wirecut.errors import FabricError
from wirecut.fabric.wires import WIRES
from wirecut.facts import fact
from wirecut.units import MIB

BY_HAND = "given by hand"
HOW_BY_HAND = "by hand it is memory, memory bandwidth and 16-bit rate: 24GB,936GB/s,71TFLOP/s"
DTYPES = ("fp32", "bf16", "fp16", "fp8", "int8", "fp4")
# Words between devices of a node that are not also kinds of wire.
NVLINK_WORDS = ("nvswitch", "nvlink-mesh", "nvlink-cube", "nvlink-pairs")


@fact
class DeviceSpec:
    """One kind of accelerator, from its datasheet.

    `flops_per_s` are dense rates by dtype ("fp32", "bf16", "fp16", "fp8", "int8", "fp4").
    `link_bytes_per_s` is what all its NVLink or XGMI links carry together in one direction, 0
    without any; `num_links` how many they are, `bridge` how many cards a bridge joins at most (0:
    the links run on a board). `pcie` is its slot ("pcie4"; an x8 slot is the generation before),
    `p2p` whether its driver lets devices reach each other over PCIe. `usual_wire` joins it inside a
    node unless told otherwise. `note` is what a reader of the numbers should know.
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
    bridge: int = 0
    aliases: tuple[str, ...] = ()
    note: str = ""


def find_device(name: str) -> DeviceSpec:
    """A device by its name in the catalogue, as a driver prints it, or by three numbers.

    Case, spaces, underscores and the maker's name do not matter. Raises FabricError with the
    nearest names.
    """
    if "," in name:
        return _by_hand(name)
    found = _by_key().get(_key(name))
    if found is None:
        nearest = ", ".join(_nearest(_key(name)))
        raise FabricError(f"no device {name.strip()[:60]!r}. Nearest: {nearest}; {HOW_BY_HAND}")
    return found


@cache
def all_devices() -> Mapping[str, DeviceSpec]:
    """The catalogue by name. Raises ValueError where `devices.toml` makes no sense."""
    text = Path(__file__).with_name("devices.toml").read_bytes()
    specs = [_spec(entry) for entry in msgspec.toml.decode(text, type=_Catalogue).device]
    return {spec.name: spec for spec in specs}


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One device as `devices.toml` has it; its head says what the fields mean."""

    name: str
    architecture: str
    memory_mib: int
    memory_gbps: float
    tflops: dict[str, float]
    wire: str
    pcie: str
    source: str
    vendor: str = "NVIDIA"
    p2p: bool = True
    links: int = 0
    link_gbps: float = 0.0
    bridge: int = 0
    aliases: tuple[str, ...] = ()
    note: str = ""


class _Catalogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    device: list[_Entry]


def _spec(entry: _Entry) -> DeviceSpec:
    numbers = (entry.memory_mib, entry.memory_gbps, *entry.tflops.values())
    wires = (*NVLINK_WORDS, *WIRES)
    if (
        min(numbers) <= 0
        or (entry.links > 0) != (entry.link_gbps > 0)
        or not {"fp32", "fp16"} <= set(entry.tflops) <= set(DTYPES)
        or entry.wire not in wires
        or f"{entry.pcie}-nop2p" not in wires
        or entry.p2p == entry.wire.endswith("-nop2p")
    ):
        raise ValueError(f"devices.toml: {entry.name} makes no sense")
    return DeviceSpec(
        name=entry.name,
        vendor=entry.vendor,
        architecture=entry.architecture,
        memory_bytes=entry.memory_mib * MIB,
        bytes_per_s=entry.memory_gbps * 1e9,
        flops_per_s={dtype: rate * 1e12 for dtype, rate in entry.tflops.items()},
        usual_wire=entry.wire,
        pcie=entry.pcie,
        p2p=entry.p2p,
        source=entry.source,
        link_bytes_per_s=entry.link_gbps * 1e9,
        num_links=entry.links,
        bridge=entry.bridge,
        aliases=entry.aliases,
        note=entry.note,
    )


@cache
def _by_key() -> dict[str, DeviceSpec]:
    keys: dict[str, DeviceSpec] = {}
    for spec in all_devices().values():
        for name in (spec.name, *spec.aliases):
            if keys.setdefault(_key(name), spec) is not spec:
                raise ValueError(f"devices.toml: {name} names two devices")
    return keys


_MAKERS = re.compile(r"^(?:nvidia|amd|intel|geforce|tesla|instinct|radeon|habana)-+")


def _key(name: str) -> str:
    """A name without what makers and drivers add: "NVIDIA GeForce RTX 4090" -> "rtx-4090"."""
    key = re.sub(r"\((?:r|tm)\)|[®™]", "", name.strip().lower())
    key = re.sub(r"[\s_-]+", "-", key).strip("-")
    while (shorter := _MAKERS.sub("", key)) != key:
        key = shorter
    for ending in ("-graphics", "-generation"):
        key = key.removesuffix(ending)
    return key


def _nearest(key: str) -> list[str]:
    """Up to four names, the most alike first."""
    from difflib import SequenceMatcher  # slow to load, and for mistakes only

    def likeness(spec: DeviceSpec) -> float:
        names = (_key(name) for name in (spec.name, *spec.aliases))
        return max(SequenceMatcher(None, key[:60], name).ratio() for name in names)

    specs = all_devices().values()
    return [spec.name for spec in sorted(specs, key=likeness, reverse=True)[:4]]


_NUMBER = r"(\d{1,12}(?:\.\d{1,12})?)\s*"
_GIVEN = (
    ("memory", re.compile(_NUMBER + r"(gb|gib)", re.ASCII), 10e12, "24GB"),
    ("memory bandwidth", re.compile(_NUMBER + r"(gb/s|tb/s)", re.ASCII), 1e15, "936GB/s"),
    ("16-bit rate", re.compile(_NUMBER + r"(tflop/s|tflops|tf)", re.ASCII), 1e18, "71TFLOP/s"),
)
_UNITS = {"gb": 1e9, "gib": 2**30, "gb/s": 1e9, "tb/s": 1e12}  # others are TFLOP/s


def _by_hand(text: str) -> DeviceSpec:
    """A device from "memory,bandwidth,rate[,name=NAME]"; fp32 at half the 16-bit rate."""
    parts = [part.strip() for part in text.split(",")]
    name = "device"
    if len(parts) == 4 and parts[3].lower().startswith("name="):
        name = parts.pop()[len("name=") :].strip()
    if len(parts) != 3 or not name:
        raise FabricError(
            f"device {text[:60]!r} has {len(parts)} parts, expected 3 numbers and perhaps "
            f"name=NAME; {HOW_BY_HAND}"
        )
    values: list[float] = []
    for part, (what, pattern, most, example) in zip(parts, _GIVEN, strict=True):
        match = pattern.fullmatch(part.lower())
        if match is None:
            raise FabricError(
                f"{what} of the device is {part[:60]!r}, expected a number and a unit as in "
                f"{example}"
            )
        value = float(match[1]) * _UNITS.get(match[2], 1e12)
        if not 0 < value <= most:
            raise FabricError(
                f"{what} of the device is {part[:60]!r}, which no device has: expected more than 0 "
                f"and at most {most:.0e}, as in {example}"
            )
        values.append(value)
    memory_bytes, bytes_per_s, rate = values
    return DeviceSpec(
        name=name,
        vendor="",
        architecture="",
        memory_bytes=max(1, int(memory_bytes)),
        bytes_per_s=bytes_per_s,
        flops_per_s={"fp32": rate / 2, "bf16": rate, "fp16": rate},
        usual_wire="pcie4-nop2p",
        pcie="pcie4",
        p2p=False,
        source=BY_HAND,
    )
