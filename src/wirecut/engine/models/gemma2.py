"""Gemma 2: norms before and behind each half, so the ranks' shares are summed before the second;
every other layer with a window; scores and logits bent below a cap; a tied head.
"""

from wirecut.engine.models.blocks import geglu
from wirecut.engine.models.style import Style
from wirecut.engine.rope import read_rope
from wirecut.spec.fields import Fields

ACTIVATION = "gelu_pytorch_tanh"


def gemma2(fields: Fields) -> Style:
    return Style(
        rope=read_rope(fields),
        gate=geglu,
        offset_norms=True,
        scale=query_scale(fields),
        score_cap=cap(fields, "attn_logit_softcapping"),
        logit_cap=cap(fields, "final_logit_softcapping"),
        embed_scale=fields.count("hidden_size") ** 0.5,
    )


def query_scale(fields: Fields) -> float:
    """Of attention scores; checks that the activation is the one that Gemma has."""
    for name in ("hidden_activation", "hidden_act"):
        if (found := fields.text(name, ACTIVATION)) != ACTIVATION:
            raise fields.error(f"{name} is {found!r}, expected {ACTIVATION!r}")
    return fields.positive("query_pre_attn_scalar", default=256.0) ** -0.5


def cap(fields: Fields, name: str) -> float | None:
    return fields.positive(name) if fields.has(name) else None
