"""The decision as a file: `plan.json` carries the cut to every command that runs or explains it.

The estimates inside are data for people and for `explain`; this module knows only that they exist.
"""

from pathlib import Path
from typing import Any

import msgspec

from wirecut.errors import PlanError, UsageError
from wirecut.fabric.fabric import Fabric
from wirecut.facts import fact
from wirecut.files import write_whole
from wirecut.layout.layout import Layout, parse_layout
from wirecut.layout.stages import Stages
from wirecut.spec.traffic import Traffic

FORMAT = "wirecut-plan-1"


@fact
class Limits:
    """What the runtime was told: tokens a step may hold, requests at once, KV room per replica.

    `kv_tokens` is that room in tokens. With `prefix_cache`, prompts that begin as an earlier one
    did go on from its keys and values.
    """

    max_batched_tokens: int = 2048
    max_seqs: int = 64
    kv_tokens: int = 0
    prefix_cache: bool = True

    def __post_init__(self) -> None:
        for name, least in (("max_batched_tokens", 1), ("max_seqs", 1), ("kv_tokens", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= 10**9:
                raise UsageError(
                    f"{name} is {value!r}, expected a whole number from {least} to {10**9}"
                )


@fact
class Cut:
    """One way to run a model: the layout, the device of each rank, the layers of each stage, and
    how much of a layer each rank of a TP group gets against the others: (5, 3) of 8 key-value
    groups, 5 and 3. () is alike.
    """

    layout: Layout
    placement: tuple[int, ...]
    stages: Stages
    shares: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.placement) != self.layout.world_size or len(set(self.placement)) != len(
            self.placement
        ):
            raise ValueError(
                f"placement {self.placement} does not give each of {self.layout.world_size} ranks "
                "its own device"
            )
        if len(self.stages) != self.layout.pp:
            raise ValueError(f"{len(self.stages)} stages for pp {self.layout.pp}")
        ends = [0, *(last for _, last in self.stages)]
        if any(
            first != end or last <= first
            for end, (first, last) in zip(ends, self.stages, strict=False)
        ):
            raise ValueError(f"stages {self.stages} do not follow one another")
        if self.shares and (len(self.shares) != self.layout.tp or min(self.shares) < 1):
            raise ValueError(f"shares {self.shares} are not one of at least 1 for each tp rank")


class Chosen(msgspec.Struct, frozen=True):
    """The part of a plan's `chosen` object that a runtime reads; the rest is the estimate."""

    layout: str
    placement: tuple[int, ...]
    stages: tuple[tuple[int, int], ...]
    shares: tuple[int, ...] = ()


class PlanFile(msgspec.Struct, frozen=True, kw_only=True):
    """What `wirecut plan --out` writes and `generate`, `serve`, `explain` and `verify` read.

    `dtype` is what is computed in, `weights` what linears are stored in where that is another;
    `memory_share` None is the engine's own.
    """

    format: str
    version: str
    model: str
    dtype: str
    weights: str = ""
    goal: str
    engine: str
    memory_share: float | None = None
    traffic: Traffic
    limits: Limits
    fabric: Fabric
    chosen: dict[str, Any]
    ranking: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    flips: list[dict[str, Any]]
    fragile: list[dict[str, Any]] = []
    not_run: str = ""  # why wirecut's own engine, which it is planned for, does not run the model
    prices: dict[str, float] = {}  # the user's, per device and hour
    elsewhere: list[dict[str, Any]] = []  # the best of other fabrics of the same question

    @property
    def stored(self) -> str:
        """What a person calls the dtype of this plan: that of its weights."""
        return self.weights or self.dtype

    def cut(self) -> Cut:
        """The chosen cut, checked. Raises PlanError."""
        return self._cut_of(self.chosen)

    def cut_of(self, layout: str) -> Cut:
        """The cut of a layout in the ranking. Raises PlanError that lists what the plan holds."""
        wanted = str(parse_layout(layout))
        for entry in self.ranking:
            if entry.get("layout") == wanted:
                return self._cut_of(entry)
        for entry in self.rejected:
            if entry.get("layout") == wanted:
                raise PlanError(f"the plan rejected {wanted}: {entry.get('reason')}")
        known = ", ".join(str(entry.get("layout")) for entry in self.ranking)
        raise PlanError(f"the plan's ranking has no {wanted}; it holds: {known}")

    def _cut_of(self, entry: dict[str, Any]) -> Cut:
        try:
            chosen = msgspec.convert(entry, Chosen)
            cut = Cut(parse_layout(chosen.layout), chosen.placement, chosen.stages, chosen.shares)
        except (msgspec.ValidationError, ValueError) as error:
            raise PlanError(
                f"the plan's layout is damaged: {error}. Make it again with `wirecut plan`"
            ) from error
        unknown = [device for device in cut.placement if not 0 <= device < len(self.fabric.devices)]
        if unknown:
            raise PlanError(
                f"the plan places ranks on devices {unknown}, "
                f"its fabric has {len(self.fabric.devices)}"
            )
        return cut


def load_plan(path: Path) -> PlanFile:
    """Read a `plan.json`. Raises PlanError that says what is wrong with it and where."""
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=PlanFile)
    except OSError as error:
        raise PlanError(
            f"cannot read plan {path}: {error.strerror}. "
            f"`wirecut plan MODEL --out {path}` makes one"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise PlanError(
            f"{path} is not a plan.json of wirecut: {error}. "
            "`wirecut plan MODEL --out FILE` makes one"
        ) from error
    if plan.format != FORMAT:
        raise PlanError(
            f"{path} has format {plan.format!r}, this version reads {FORMAT!r}: plan again"
        )
    plan.cut()
    return plan


def save_plan(plan: PlanFile, path: Path) -> None:
    """Write `plan.json`, whole or not at all."""
    try:
        write_whole(path, msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
