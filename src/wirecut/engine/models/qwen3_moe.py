"""Qwen3-MoE: Qwen3 with many small experts and no shared one."""

from wirecut.engine.models.ropes import read_rope
from wirecut.engine.models.style import Routing, Style, read_gate
from wirecut.spec.fields import Fields


def qwen3_moe(fields: Fields) -> Style:
    return Style(
        rope=read_rope(fields),
        gate=read_gate(fields),
        routing=Routing(normed=fields.flag("norm_topk_prob")),
    )
