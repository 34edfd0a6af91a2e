"""Gemma 3: Gemma 2 with norms of queries and keys, without caps; five layers of six have a window,
and a rope of their own.
"""

from wirecut.engine.models.gemma2 import cap, gemma_gate, query_scale
from wirecut.engine.models.ropes import Plain, Rope, read_rope
from wirecut.engine.models.style import Style
from wirecut.spec.fields import Fields


def gemma3(fields: Fields) -> Style:
    if fields.flag("use_bidirectional_attention"):
        raise fields.error("use_bidirectional_attention is true: such a model writes no text")
    return Style(
        rope=read_rope(fields),
        window_rope=_window_rope(fields),
        gate=gemma_gate(fields),
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
