"""Qwen3-MoE: Qwen3 with many small experts and no shared one."""

from wirecut.engine.models.style import Style
from wirecut.engine.moe import Routing
from wirecut.engine.rope import read_rope
from wirecut.spec.fields import Fields


def qwen3_moe(fields: Fields) -> Style:
    return Style(
        rope=read_rope(fields),
        routing=Routing(normed=fields.flag("norm_topk_prob")),
    )
