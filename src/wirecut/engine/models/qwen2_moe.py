"""Qwen2-MoE: Qwen2 with experts, and a shared expert under a gate that every rank computes."""

from wirecut.engine.models.style import Style
from wirecut.engine.moe import Routing
from wirecut.engine.rope import read_rope
from wirecut.spec.fields import Fields


def qwen2_moe(fields: Fields) -> Style:
    return Style(
        rope=read_rope(fields),
        routing=Routing(normed=fields.flag("norm_topk_prob")),
    )
