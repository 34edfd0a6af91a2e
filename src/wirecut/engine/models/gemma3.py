"""Gemma 3: Gemma 2 with norms of queries and keys, without caps; five layers of six have a window,
and a rope of their own.
"""

from wirecut.engine.models.blocks import geglu
from wirecut.engine.models.gemma2 import cap, query_scale
from wirecut.engine.models.style import Style
from wirecut.engine.rope import Plain, Rope, read_rope
from wirecut.spec.fields import Fields


def gemma3(fields: Fields) -> Style:
    return Style(
        rope=read_rope(fields),
        window_rope=_window_rope(fields),
        gate=geglu,
        offset_norms=True,
        scale=query_scale(fields),
        score_cap=cap(fields, "attn_logit_softcapping"),
        logit_cap=cap(fields, "final_logit_softcapping"),
        embed_scale=fields.count("hidden_size") ** 0.5,
    )


def _window_rope(fields: Fields) -> Rope:
    """Before transformers 5 a base alone, which no scaling touched."""
    if fields.inner("rope_parameters").has("sliding_attention"):
        return read_rope(fields, "sliding_attention")
    return Rope(fields.positive("rope_local_base_freq", default=10_000.0), Plain())
