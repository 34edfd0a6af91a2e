"""Qwen2-MoE: Qwen2 with experts, and a shared expert under a gate that every rank computes."""

from wirecut.engine.models.ropes import read_rope
from wirecut.engine.models.style import Routing, Style, read_gate
from wirecut.spec.fields import Fields


def qwen2_moe(fields: Fields) -> Style:
    return Style(
        rope=read_rope(fields),
        gate=read_gate(fields),
        routing=Routing(normed=fields.flag("norm_topk_prob")),
    )
