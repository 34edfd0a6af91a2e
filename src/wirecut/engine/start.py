"""Starts the ranks of a cut and waits until all can serve.

    ranks = start(folder, cut, fabric, limits, "bf16", "", False, False, places)
    loaded = wait_until_ready(ranks, cut.layout.world_size, progress)

Ranks load at different speeds (more layers, a cold disk, a shared core), and nothing that one does
for another may wait so long: each says when it holds its slices, and begins to compute when told
that all do. That goes through the lines that every rank has to the front, whatever its wires.
Imports no torch.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import msgspec

from wirecut.engine.messages import Begin, FromRank, Held, Loaded, Loading, Task
from wirecut.engine.prompt import block_tokens
from wirecut.engine.trace import ROUTINE_SPANS, TRACED_SPANS
from wirecut.engine.wired import choose_wires
from wirecut.errors import MissingExtra, UsageError
from wirecut.fabric.discover import cores_for, discover
from wirecut.fabric.fabric import Fabric
from wirecut.layout.plan import Cut, Limits
from wirecut.machine.ranks import Ranks, start_ranks
from wirecut.machine.world import RankHost


def start(
    folder: Path,
    cut: Cut,
    fabric: Fabric,
    limits: Limits,
    dtype: str,
    weights: str,
    keep_logits: bool,
    trace: bool,
    places: Sequence[RankHost],
) -> Ranks:
    """Start the cut's ranks, rank i on `places[i]`, on this host without. Raises MissingExtra."""
    if find_spec("torch") is None or find_spec("safetensors") is None:
        raise MissingExtra("engine", "running a model")
    if not places:
        _check_gpus(cut, fabric)
    wired = choose_wires(cut, fabric)
    devices = [_torch_device(fabric, device) for device in cut.placement]
    most_spans = TRACED_SPANS if trace else 0 if wired.gpus else ROUTINE_SPANS
    task = Task(
        folder=str(folder),
        dtype=dtype,
        cut=cut,
        devices=devices,
        wired=wired,
        limits=limits,
        block_tokens=block_tokens(on_gpus=wired.gpus),
        keep_logits=keep_logits,
        most_spans=most_spans,
        weights=weights,
    )
    cpus = [cores_for(fabric.devices[device]) for device in cut.placement]
    payload = msgspec.msgpack.encode(task)
    return start_ranks(
        "wirecut.engine.worker",
        [payload] * cut.layout.world_size,
        cpus,
        accepts=FromRank,
        hosts=places,
    )


def _check_gpus(cut: Cut, fabric: Fabric) -> None:
    """Raise UsageError where the cut is for GPUs that this machine does not have."""
    wanted = [fabric.devices[i] for i in cut.placement if fabric.devices[i].kind == "gpu"]
    if not wanted:
        return
    here = [device for device in discover().devices if device.kind == "gpu"]
    if len(here) < len(wanted):
        raise UsageError(
            f"{cut.layout} is for {len(wanted)} x {wanted[0].name}, this machine has {len(here)} "
            "GPUs: run it there, or leave out --fabric to plan for this machine"
        )


def wait_until_ready(
    ranks: Ranks, count: int, progress: Callable[[int, int], None]
) -> list[Loaded]:
    """What each of `count` ranks says once it is ready. None begins before all hold their slices,
    however long that takes. `progress` hears tensors read and tensors to read, over all ranks.
    Raises RankFailed for a rank that dies or gives up.
    """
    seen: dict[int, Loading] = {}
    loaded: dict[int, Loaded] = {}
    holding: set[int] = set()
    while len(loaded) < count:
        rank, message = ranks.next_message()
        if isinstance(message, Loading):
            seen[rank] = message
            of = round(sum(each.of for each in seen.values()) / len(seen) * count)
            progress(sum(each.done for each in seen.values()), of)
        elif isinstance(message, Held):
            holding.add(rank)
            if len(holding) == count:
                for each in holding:
                    ranks.send(each, Begin())
        else:
            assert isinstance(message, Loaded)
            loaded[rank] = message
    return [loaded[rank] for rank in range(count)]


def find_places(cut: Cut, fabric: Fabric, hosts: Sequence[RankHost]) -> list[RankHost]:
    """Where each rank runs; empty: all here. Raises UsageError for hosts that cannot be reached."""
    names = [fabric.devices[device].host for device in cut.placement]
    known = {host.name: host for host in hosts}
    if missing := sorted(set(names) - set(known)):
        if known or len(missing) > 1:
            raise UsageError(
                f"{cut.layout} lies on hosts {', '.join(sorted(set(names)))}: this version starts "
                "ranks on one host. Plan on a fabric of one, or choose a layout that fits it"
            )
        return []
    return [known[name] for name in names]


def _torch_device(fabric: Fabric, device: int) -> str:
    """A GPU by its place among its host's, or the CPU."""
    if fabric.devices[device].kind != "gpu":
        return "cpu"
    host = fabric.devices[device].host
    gpus = [each.id for each in fabric.devices if (each.host, each.kind) == (host, "gpu")]
    return f"cuda:{gpus.index(device)}"


def device_name(fabric: Fabric, device: int) -> str:
    """As in "cuda:3" or "cores 0, 1", with its host's name when there are others."""
    cores = ", ".join(map(str, cores_for(fabric.devices[device])))
    torch_name = _torch_device(fabric, device)
    name = f"cores {cores}" if torch_name == "cpu" else torch_name
    host = fabric.devices[device].host
    return name if len({each.host for each in fabric.devices}) == 1 else f"{name} of {host}"
