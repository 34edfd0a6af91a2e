"""Gemma 2: norms before and behind each half, so the ranks' shares are summed before the second;
every other layer with a window; scores and logits bent below a cap; a tied head.
"""

from wirecut.engine.models.ropes import read_rope
from wirecut.engine.models.style import Style, read_gate
from wirecut.spec.fields import Fields


def gemma2(fields: Fields) -> Style:
    return Style(
        rope=read_rope(fields),
        gate=read_gate(fields, "hidden_activation", "gelu_pytorch_tanh"),
        offset_norms=True,
        scale=fields.positive("query_pre_attn_scalar", default=256.0) ** -0.5,
        score_cap=_cap(fields, "attn_logit_softcapping"),
        logit_cap=_cap(fields, "final_logit_softcapping"),
        embed_scale=fields.count("hidden_size") ** 0.5,
    )


def _cap(fields: Fields, name: str) -> float | None:
    return fields.positive(name) if fields.has(name) else None
