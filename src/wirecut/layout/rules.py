"""Which layouts a model and a number of devices allow, and else why not, with numbers.

why_not(spec, parse_layout("tp3"), 8, EngineRules(uneven_tp=True))      # None, or a reason
"""

import re
from typing import Literal

from wirecut.facts import fact
from wirecut.layout.layout import Layout
from wirecut.layout.shards import cut_by_shares, expert_tp, tensor_slice
from wirecut.spec.attention import CompressedAttention
from wirecut.spec.feedforward import Moe
from wirecut.spec.formats import kind_of
from wirecut.spec.model import AnyMixer, Layer, ModelSpec


@fact
class EngineRules:
    """What a runtime can cut. `has_tp`, `has_pp`: whether it cuts inside layers, and between them.
    `uneven_tp`: key-value heads need not divide by TP; `uneven_ep`: nor experts by EP. `experts`:
    "none" (no EP), "all" (EP is all of dp x tp, or 1), "any" (any divisor). `whole_blocks`: a
    rank's part of an expert must hold whole blocks of a block-quantised weight. `group`: a rank's
    inputs of a 4-bit weight must be multiples of it. `name` is what reasons call it.
    """

    name: str = "this engine"
    has_tp: bool = True
    has_pp: bool = True
    uneven_tp: bool = False
    uneven_ep: bool = False
    experts: Literal["none", "all", "any"] = "any"
    whole_blocks: bool = False
    group: int = 1


ANY_ENGINE = EngineRules()
# wirecut's, which deals whole key-value groups and whole experts; torch's kernel for 4 bits takes
# groups of 32.
OWN_ENGINE = EngineRules("wirecut", uneven_tp=True, uneven_ep=True, group=32)


def allowed_tp(spec: ModelSpec, rules: EngineRules = ANY_ENGINE) -> list[int]:
    """The TP sizes that the engine and this model's heads allow, smallest first."""
    if not rules.has_tp:
        return [1]
    most = min((layer.mixer.heads for layer in spec.kinds if layer.mixer), default=1)
    return [tp for tp in range(1, most + 1) if _fault(spec, tp, rules) is None]


def most_stages(spec: ModelSpec, rules: EngineRules = ANY_ENGINE) -> int:
    """The deepest pipeline that the engine and this model's layers allow."""
    return spec.num_layers if rules.has_pp else 1


def _fault(spec: ModelSpec, tp: int, rules: EngineRules) -> Layer | None:
    """The first layer that `tp` ranks cannot share."""
    for layer in spec.kinds:
        if layer.mixer and not _heads_allow(layer.mixer, tp, rules):
            return layer
        if _dense_width(spec, layer) < tp or _splits_group(spec, layer, tp, rules):
            return layer
    return None


def _heads_allow(mixer: AnyMixer, tp: int, rules: EngineRules) -> bool:
    heads, groups = mixer.heads, mixer.groups or mixer.heads
    if isinstance(mixer, CompressedAttention) and tp > groups:
        return False  # an output group is summed over its heads within one rank
    if tp > groups:
        return tp % groups == 0 and heads % tp == 0
    return rules.uneven_tp or groups % tp == 0


def _dense_width(spec: ModelSpec, layer: Layer) -> int:
    """Columns that TP cuts in a layer's feed-forward, or groups of them, experts apart."""
    cut = [
        tensor.units
        for tensor in spec.layer_tensors(layer)
        if tensor.part in ("gate", "up", "down") and tensor.dim is not None and not tensor.experts
    ]
    return min(cut, default=10**9)


def _splits_group(spec: ModelSpec, layer: Layer, tp: int, rules: EngineRules) -> bool:
    """Whether a rank's inputs of a quantised weight begin or end where no kernel's group does."""
    for tensor in spec.layer_tensors(layer):
        if rules.group == 1 or tensor.dim != 1 or kind_of(tensor.format) != "int4":
            continue
        cuts = (tensor_slice(tensor, tp=tp, tp_rank=rank) for rank in range(tp))
        if any(cut.start % rules.group or cut.stop % rules.group for cut in cuts):
            return True
    return False


def why_not(
    spec: ModelSpec, layout: Layout, num_devices: int, rules: EngineRules = ANY_ENGINE
) -> str | None:
    """Why `layout` cannot be built, or None when it can. Memory is not judged here."""
    if layout.world_size > num_devices:
        return f"{layout} needs {layout.world_size} devices, the fabric has {num_devices}"
    if layout.tp > 1 and not rules.has_tp:
        return f"tp {layout.tp}: {rules.name} cuts by layers only: tp 1"
    if layout.pp > 1 and not rules.has_pp:
        return f"pp {layout.pp}: {rules.name} runs no pipelines: pp 1"
    fault = _fault(spec, layout.tp, rules)
    if fault:
        sizes = ", ".join(map(str, allowed_tp(spec, rules)))
        cuts = _what_it_cuts(spec, fault, layout.tp, rules)
        return f"tp {layout.tp} {cuts}; sizes that work: {sizes}"
    if layout.pp > spec.num_layers:
        return f"pp {layout.pp} is more stages than the model's {spec.num_layers} layers"
    return _why_not_experts(spec, layout, rules)


def why_not_shares(spec: ModelSpec, layout: Layout, shares: tuple[int, ...]) -> str | None:
    """Why the ranks of a TP group cannot get such shares, or None when they can."""
    if not shares:
        return None
    told = "+".join(map(str, shares))
    if layout.ep > 1:
        return f"shares {told}: with ep {layout.ep} the ranks of a TP group are alike"
    for layer in spec.kinds:
        if layer.mixer is None:
            continue
        groups = layer.mixer.groups or layer.mixer.heads
        dealt = [cut_by_shares(groups, layout.tp, i, shares) for i in range(layout.tp)]
        if layout.tp > groups or any(first == last for first, last in dealt):
            return f"shares {told} leave a rank without any of {groups} key-value heads"
    return None


def _what_it_cuts(spec: ModelSpec, layer: Layer, tp: int, rules: EngineRules) -> str:
    if layer.mixer is None or _heads_allow(layer.mixer, tp, rules):
        if (width := _dense_width(spec, layer)) < tp:
            return f"is more than the {width} columns, or groups of them, of a feed-forward"
        return (
            f"gives ranks inputs of {layer.formats[0][1]} weights in no multiples of "
            f"{rules.group}, which {rules.name} multiplies together (with `--dtype bf16` they are "
            "unpacked)"
        )
    heads, groups = layer.mixer.heads, layer.mixer.groups
    if not groups:
        return f"does not divide {heads} heads evenly"
    return f"does not divide {heads} query and {groups} key-value heads evenly"


def _why_not_experts(spec: ModelSpec, layout: Layout, rules: EngineRules) -> str | None:
    if layout.ep > 1:
        if not any(isinstance(layer.mlp, Moe) for layer in spec.kinds):
            return f"ep {layout.ep} needs experts; {spec.name} is a dense model"
        if rules.experts == "none":
            return f"ep {layout.ep}: {rules.name} does not deal experts to ranks"
        if rules.experts == "all" and layout.ep != layout.dp * layout.tp:
            return (
                f"ep {layout.ep}: {rules.name} deals experts to all ranks of a stage, "
                f"here dp x tp = {layout.dp * layout.tp}, or to none"
            )
    inside = expert_tp(layout)
    for layer in spec.kinds:
        if isinstance(layer.mlp, Moe) and (
            reason := _why_not_inside(layer.mlp, layout, inside, _block(layer, rules), rules)
        ):
            return reason
    return None


def _why_not_inside(
    moe: Moe, layout: Layout, inside: int, block: int, rules: EngineRules
) -> str | None:
    width = moe.intermediate
    if layout.ep > moe.experts:
        return f"ep {layout.ep} is more than the {moe.experts} experts"
    if moe.experts % layout.ep and not rules.uneven_ep:
        return f"ep {layout.ep} does not divide {moe.experts} experts"
    if width < inside:
        return f"{inside} ranks share an expert of {width} columns"
    if width % inside and not rules.uneven_tp:
        return f"{inside} ranks share an expert, which does not divide its {width} columns"
    if width // inside % block:
        return (
            f"{inside} ranks share an expert of {width} columns: {width // inside} each are no "
            f"multiple of the {block} that its weights are quantised by; try more ep"
        )
    return None


def _block(layer: Layer, rules: EngineRules) -> int:
    """Columns of an expert that have to stay together."""
    formats = (format for name, format in layer.formats if ".experts." in name)
    sizes = (re.search(r"-b([0-9]+)$", format) for format in formats)
    return max((int(size[1]) for size in sizes if size and rules.whole_blocks), default=1)
