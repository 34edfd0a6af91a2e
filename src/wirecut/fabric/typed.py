"""A fabric from a line that a person types: `[NODES x] GPUS x DEVICE [: intra [: inter]]`.

    typed_fabric("8xL40S")                          # one node, the device's usual wires
    typed_fabric("2x8xL40S:pcie4:100gbe")           # two nodes, one 100 Gbit/s port each
    typed_fabric("4x8xH200-SXM:nvswitch:ib-400x8")  # a rail per GPU
    typed_fabric("4x24GB,936GB/s,71TFLOP/s:pcie4")  # a device by its three numbers

Inside a node: nvswitch, nvlink-mesh, nvlink-cube, nvlink-pairs, xgmi, pcie5, pcie4, pcie3, pcie2,
pcie2x4, each PCIe one also with -nop2p. Between nodes: ib-N and roce-N (Gbit/s per rail), Ngbe,
each also with xK (K rails a node); mnnvl, where NVSwitch joins the nodes too. `typed_links` says
what each means as links.
"""

import re

from wirecut.errors import FabricError
from wirecut.fabric.catalogue import BY_HAND, DeviceSpec, find_device
from wirecut.fabric.fabric import Device, Fabric, Made, now
from wirecut.fabric.islands import find_islands
from wirecut.fabric.physics import ASSUMED_LAUNCH_S
from wirecut.fabric.typed_links import (
    INTRA_WORDS,
    Network,
    Shape,
    every_pair,
    links_in_nodes,
    trunk_between_nodes,
    why_not,
)
from wirecut.facts import fact
from wirecut.version import __version__

MOST_DEVICES = 32768
MOST_LISTED = 72  # devices of a fabric that lists every pair: a rack, which a person can read
MOST_GBITS = 10_000
MOST_RAILS = 64
MOST_CHARACTERS = 200
ASSUMED_NETWORK = Network("ethernet", 100.0, 1, given=False)

_COUNT = re.compile(r"\s*(\d+)\s*[xX]\s*", re.ASCII)
_NETWORKS = (
    re.compile(r"(?P<kind>ib|roce)-(?P<gbits>\d+(?:\.\d+)?)(?:x(?P<rails>\d+))?", re.ASCII),
    re.compile(r"(?P<gbits>\d+(?:\.\d+)?)(?P<kind>gbe)(?:x(?P<rails>\d+))?", re.ASCII),
)
_BETWEEN = "ib-N, roce-N or Ngbe (Gbit/s per rail; ib-200x8: 8 rails), mnnvl"


def looks_typed(text: str) -> bool:
    """Whether a text begins as a typed fabric does: a count, an x and something."""
    match = _COUNT.match(text)
    return match is not None and match.end() < len(text)


def typed_fabric(text: str) -> Fabric:
    """The fabric that `text` describes. Raises FabricError that points at the part it cannot read.

    Rates are datasheets' (`source` "datasheet"), of a device given by hand "assumed"; what was left
    out and assumed is in `made.notes`.
    """
    typed = _parse(text)
    made = Made(now(), f"typed: {text.strip()}", __version__, typed.notes)
    return shaped_fabric(typed.shape, typed.network, made)


def shaped_fabric(shape: Shape, network: Network | None, made: Made) -> Fabric:
    """Nodes of one shape and what joins them: every pair listed in a small fabric, a trunk in a
    large one.
    """
    devices, links = _devices(shape), links_in_nodes(shape)
    trunk = trunk_between_nodes(shape, network)
    trunks = () if trunk is None else (trunk,)
    nodes = [range(at, at + shape.gpus) for at in range(0, len(devices), shape.gpus)]
    islands = find_islands(len(devices), links, trunks=trunks, hosts=nodes)
    if len(devices) > MOST_LISTED:
        return Fabric(devices, links, islands, made, trunks=trunks)
    named = [(f"node{i}", node) for i, node in enumerate(nodes)]
    links += tuple(link for trunk in trunks for link in every_pair(trunk, named))
    return Fabric(devices, links, islands, made)


@fact
class _Part:
    """A piece of the text and where it begins."""

    text: str
    start: int

    @property
    def word(self) -> str:
        return self.text.strip().lower()


@fact
class _Typed:
    shape: Shape
    network: Network | None
    notes: tuple[str, ...]


def _parse(text: str) -> _Typed:
    if not text.strip() or len(text) > MOST_CHARACTERS:
        said = f"{len(text)} characters" if text.strip() else "empty"
        raise FabricError(
            f"the typed fabric is {said}, expected [NODES x] GPUS x DEVICE [: intra [: inter]], as "
            "in 8xL40S or 2x8xL40S:pcie4:100gbe"
        )
    parts, start = list[_Part](), 0
    for piece in text.split(":"):
        parts.append(_Part(piece, start))
        start += len(piece) + 1
    for part in parts[1:4]:
        if not part.word:
            raise _wrong(text, part, "a wire is missing here: name it or leave out the colon")
    if len(parts) > 3:
        raise _wrong(text, parts[3], "a fourth part: expected at most DEVICE : intra : inter")
    counts, device = _counts(text, parts[0])
    nodes, gpus = counts
    try:
        spec = find_device(device.text)
    except FabricError as error:
        raise _wrong(text, device, str(error)) from None
    notes = _notes_on(spec, device)
    wire, more = _intra(text, parts, spec, gpus)
    notes += more
    network, more = _inter(text, parts, nodes, spec, wire)
    return _Typed(Shape(nodes, gpus, spec, wire), network, tuple(notes + more))


def _counts(text: str, head: _Part) -> tuple[tuple[int, int], _Part]:
    """((nodes, GPUs in each), the device's part)."""
    found: list[tuple[int, _Part]] = []
    at = 0
    while len(found) < 2 and (match := _COUNT.match(head.text, at)) is not None:
        if found and _is_device(head.text[at:]):  # "8x7900x..." could be a name
            break
        found.append((int(match[1]), _Part(match[1], head.start + match.start(1))))
        at = match.end()
    if not found:
        raise _wrong(text, head, "expected a count before the device, as in 8xL40S")
    device = _Part(head.text[at:], head.start + at)
    if not device.word:
        raise _wrong(text, device, "the device is missing, as in 8xL40S")
    for count, part in found:
        if count < 1:
            raise _wrong(text, part, "expected at least 1")
    (nodes, first), (gpus, _) = found if len(found) == 2 else [(1, found[0][1]), found[0]]
    if nodes * gpus > MOST_DEVICES:
        raise _wrong(text, first, f"{nodes * gpus} devices, expected at most {MOST_DEVICES}")
    return (nodes, gpus), device


def _is_device(name: str) -> bool:
    try:
        find_device(name)
    except FabricError:
        return False
    return True


def _notes_on(spec: DeviceSpec, device: _Part) -> list[str]:
    notes: list[str] = []
    if spec.source != BY_HAND and re.sub(r"[\s_-]+", "-", device.word) != spec.name.lower():
        notes.append(f"{device.text.strip()} is taken as {spec.name}")
    if spec.note:
        notes.append(f"{spec.name}: {spec.note}")
    return notes


def _intra(text: str, parts: list[_Part], spec: DeviceSpec, gpus: int) -> tuple[str, list[str]]:
    """The wire inside a node, and notes on it."""
    if len(parts) == 1:
        return _usual(text, parts[0], spec, gpus)
    part = parts[1]
    wire = part.word
    if wire not in INTRA_WORDS:
        hint = ""
        if _network(text, part) is not None:
            hint = f" {part.text.strip()!r} goes between nodes: name the wire inside them first."
        words = ", ".join(word for word in INTRA_WORDS if not word.endswith("-nop2p"))
        raise _wrong(
            text, part, f"no wire inside a node.{hint} Expected {words}, or a pcie one with -nop2p"
        )
    if gpus > 1 and (reason := why_not(wire, spec, gpus)):
        raise _wrong(text, part, reason)
    if wire.startswith("pcie") and gpus > 1:
        slot, _, bounced = wire.partition("-")
        if slot > spec.pcie and spec.source != BY_HAND:
            return wire, [f"{spec.name} has a slot as fast as {spec.pcie}; {slot} as written"]
        if not bounced and not spec.p2p and spec.source != BY_HAND:
            return wire, [f"the driver of {spec.name} refuses peer access; taken as written"]
    return wire, []


def _usual(text: str, head: _Part, spec: DeviceSpec, gpus: int) -> tuple[str, list[str]]:
    """The device's usual wire, or PCIe where that does not join as many."""
    if gpus == 1:
        return spec.usual_wire, []
    reason = why_not(spec.usual_wire, spec, gpus)
    if not reason:
        return spec.usual_wire, [f"wires inside a node not given: {spec.usual_wire} assumed"]
    if spec.bridge:
        wire = spec.pcie if spec.p2p else f"{spec.pcie}-nop2p"
        return wire, [f"wires inside a node not given: {wire} assumed, since {reason}"]
    raise _wrong(text, head, reason)


def _inter(
    text: str, parts: list[_Part], nodes: int, spec: DeviceSpec, wire: str
) -> tuple[Network | None, list[str]]:
    """The wire between nodes, and notes on it. None: there is one node, or NVSwitch joins them."""
    if len(parts) < 3:
        note = "wires between nodes not given: 100gbe assumed"
        return (None, []) if nodes == 1 else (ASSUMED_NETWORK, [note])
    part = parts[2]
    network = _network(text, part)
    if network is None:
        raise _wrong(text, part, f"no wire between nodes. Expected {_BETWEEN}")
    if nodes == 1:
        raise _wrong(text, part, "a wire between nodes, and there is one node: 2x8xL40S is two")
    switched = spec.vendor == "NVIDIA" and spec.num_links and not spec.bridge and wire == "nvswitch"
    if network.kind == "nvswitch" and not switched:
        why = f"NVSwitch between nodes needs it inside them, and {spec.name}:{wire} has none"
        raise _wrong(text, part, why)
    return network, []


def _network(text: str, part: _Part) -> Network | None:
    """The network that a word names, None when it names none. Raises FabricError for speeds and
    rails that no network has.
    """
    if part.word == "mnnvl":
        return Network("nvswitch", 0.0, 0)
    match = next((m for p in _NETWORKS if (m := p.fullmatch(part.word)) is not None), None)
    if match is None:
        return None
    gbits, rails = float(match["gbits"]), int(match["rails"] or 1)
    if not 0 < gbits <= MOST_GBITS:
        raise _wrong(
            text, part, f"{gbits:g} Gbit/s per rail, expected more than 0, at most {MOST_GBITS}"
        )
    if not 1 <= rails <= MOST_RAILS:
        raise _wrong(text, part, f"{rails} rails, expected 1 to {MOST_RAILS}")
    return Network("ethernet" if match["kind"] == "gbe" else match["kind"], gbits, rails)


def _devices(shape: Shape) -> tuple[Device, ...]:
    spec = shape.spec
    return tuple(
        Device(
            id=node * shape.gpus + index,
            host=f"node{node}",
            kind="gpu",
            name=spec.name,
            memory_bytes=spec.memory_bytes,
            bytes_per_s=spec.bytes_per_s,
            flops_per_s=spec.flops_per_s,
            launch_s=ASSUMED_LAUNCH_S,
            source="assumed" if spec.source == BY_HAND else "datasheet",
            index=index,
        )
        for node in range(shape.nodes)
        for index in range(shape.gpus)
    )


def _wrong(text: str, part: _Part, why: str) -> FabricError:
    """An error that shows the text with the part underlined."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    inner = part.text.strip()
    start = part.start + (part.text.find(inner) if inner else 0)
    return FabricError(
        f"fabric {shown!r} is not understood:\n"
        f"  {shown}\n"
        f"  {' ' * start}{'^' * max(1, len(inner))} {why}"
    )
