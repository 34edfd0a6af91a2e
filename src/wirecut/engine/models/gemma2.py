"""Gemma 2: norms before and behind each half, so the ranks' shares are summed before the second;
every other layer with a window; scores and logits bent below a cap; a tied head.
"""

from wirecut.engine.models.ropes import read_rope
from wirecut.engine.models.style import Gate, Style, read_gate
from wirecut.spec.fields import Fields


def gemma2(fields: Fields) -> Style:
    return Style(
        rope=read_rope(fields),
        gate=gemma_gate(fields),
        offset_norms=True,
        scale=query_scale(fields),
        score_cap=cap(fields, "attn_logit_softcapping"),
        logit_cap=cap(fields, "final_logit_softcapping"),
        embed_scale=fields.count("hidden_size") ** 0.5,
    )


def gemma_gate(fields: Fields) -> Gate:
    return read_gate(fields, "hidden_activation", "gelu_pytorch_tanh")


def query_scale(fields: Fields) -> float:
    """Of attention scores."""
    return fields.positive("query_pre_attn_scalar", default=256.0) ** -0.5


def cap(fields: Fields, name: str) -> float | None:
    return fields.positive(name) if fields.has(name) else None
