"""The Python interface: price one layout, or rank all of them. Thin; `wirecut.estimate` and
`wirecut.plan` lead here.

    ranking = wirecut.plan("examples/demo-model", traffic=wirecut.Traffic(concurrency=8))
    ranking.chosen.layout, ranking.chosen.tpot_s
"""

import math
from contextlib import suppress
from os import PathLike
from pathlib import Path

from wirecut.cost.engines import engine_profile
from wirecut.cost.estimate import Candidate, check_traffic, price
from wirecut.cost.replica import Pricing
from wirecut.cost.terms import Estimate, Rejected
from wirecut.errors import FabricError, UsageError
from wirecut.fabric.discover import assumed_fabric
from wirecut.fabric.fabric import Fabric, load_fabric
from wirecut.fabric.saved import MAX_CHARS, looks_saved, read_saved
from wirecut.fabric.typed import looks_typed, typed_fabric
from wirecut.files import cache_dir
from wirecut.layout.layout import Layout, parse_layout
from wirecut.layout.plan import Limits, PlanFile
from wirecut.planner.plan import Ranking, outcome_of
from wirecut.planner.plan import plan as rank
from wirecut.planner.plan_file import to_plan_file
from wirecut.spec.find import find_model
from wirecut.spec.model import ModelSpec
from wirecut.spec.traffic import Traffic
from wirecut.units import DTYPE_BYTES

Model = str | PathLike[str] | ModelSpec


def estimate(
    model: Model,
    fabric: Fabric | str | PathLike[str] | None = None,
    *,
    layout: Layout | str,
    traffic: Traffic | None = None,
    engine: str = "wirecut",
    dtype: str | None = None,
) -> Estimate | Rejected:
    """Price one layout of a model on a fabric (default: this machine's). Raises WirecutError for
    bad input.
    """
    cut = layout if isinstance(layout, Layout) else parse_layout(layout)
    pricing, asked = pricing_of(model, fabric, engine=engine, dtype=dtype), traffic or Traffic()
    check_traffic(pricing.spec, asked)
    outcome = outcome_of(pricing, cut, asked)
    return price(outcome, asked) if isinstance(outcome, Candidate) else outcome


def plan(
    model: Model,
    fabric: Fabric | str | PathLike[str] | None = None,
    *,
    goal: str = "throughput",
    traffic: Traffic | None = None,
    engine: str = "wirecut",
    dtype: str | None = None,
) -> Ranking:
    """Rank every layout of a model on a fabric. Raises NothingFits when none works, WirecutError
    for bad input.
    """
    pricing = pricing_of(model, fabric, engine=engine, dtype=dtype)
    return rank(pricing, traffic or Traffic(), goal=goal)


def plan_file_of(
    model: str | PathLike[str],
    fabric: Fabric | str | PathLike[str] | None = None,
    *,
    goal: str = "throughput",
    traffic: Traffic | None = None,
    engine: str = "wirecut",
    dtype: str | None = None,
) -> PlanFile:
    """The same decision as a file for every later command; the model's folder is written as
    absolute path.
    """
    asked, pricing = traffic or Traffic(), pricing_of(model, fabric, engine=engine, dtype=dtype)
    if asked.rate == math.inf:
        raise UsageError("a plan file holds a finite rate; rate=inf is for `wirecut.estimate`")
    folder = Path(model).expanduser()
    name = str(folder.resolve()) if folder.is_dir() else str(model)
    return to_plan_file(rank(pricing, asked, goal=goal), pricing, traffic=asked, model=name)


def pricing_of(
    model: Model,
    fabric: Fabric | str | PathLike[str] | None,
    *,
    engine: str = "wirecut",
    dtype: str | None = None,
    limits: Limits | None = None,
) -> Pricing:
    """What pricing needs, from what a person gives. `dtype` None is the checkpoint's own."""
    profile = engine_profile(engine)
    if dtype is not None and dtype not in DTYPE_BYTES:
        raise UsageError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPE_BYTES)}")
    spec = model if isinstance(model, ModelSpec) else find_model(str(model))[1]
    wires = fabric if isinstance(fabric, Fabric) else find_fabric(fabric)
    return Pricing(spec, wires, dtype=dtype or spec.dtype, limits=limits, engine=profile)


def find_fabric(name: str | PathLike[str] | None, device: str | None = None) -> Fabric:
    """A fabric by its file or typed ("2x8xL40S:pcie4:100gbe"); None is this machine: its last
    probe, else one whose numbers are assumed.

    A file is a fabric.json, or what `nvidia-smi topo -m`, `amd-smi topology` or `rocm-smi
    --showtopo` printed, whose GPUs `device` names. A probe of another machine, or of another number
    of cores, is not taken. Raises FabricError.
    """
    if name is None:
        _no_device(device, "this machine")
        probed, here = cache_dir() / "fabric.json", assumed_fabric()
        last = load_fabric(probed) if probed.is_file() else here
        same = (last.hosts, len(last.devices)) == (here.hosts, len(here.devices))
        return last if same else here
    path, text = Path(name), str(name)
    with suppress(OSError):  # a text too long to be a file's name
        if path.is_file():
            return _read_fabric(path, device)
        if path.exists():
            raise FabricError(
                f"fabric {path} is a folder, expected the file that `wirecut probe` writes"
            )
    if looks_typed(text):
        _no_device(device, text)
        return typed_fabric(text)
    raise FabricError(
        f"no fabric {text[:200]!r}: expected the path of a fabric.json that `wirecut probe` "
        "writes or of a saved `nvidia-smi topo -m`, or a typed fabric such as 8xL40S or "
        "2x8xL40S:pcie4:100gbe"
    )


def _read_fabric(path: Path, device: str | None) -> Fabric:
    """A fabric.json, or a text that a vendor's tool printed."""
    saved = ""
    with suppress(OSError):  # `load_fabric` tells it better
        if path.stat().st_size <= MAX_CHARS:
            saved = path.read_text(encoding="utf-8", errors="replace")
    if not looks_saved(saved):
        fabric = load_fabric(path)
        _no_device(device, str(path))
        return fabric
    try:
        return read_saved(saved, device)
    except FabricError as error:
        raise FabricError(f"{path}: {error}") from error


def _no_device(device: str | None, fabric: str) -> None:
    if device is not None:
        raise FabricError(
            f"device {device!r} names the GPUs of a saved topology, and {fabric} has its own: "
            "leave it out"
        )
