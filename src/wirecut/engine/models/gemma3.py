"""Gemma 3: Gemma 2 with norms of queries and keys, without caps; five layers of six have a window,
and a rope of their own.
"""

from dataclasses import replace

from wirecut.engine.models.gemma2 import gemma2
from wirecut.engine.models.ropes import Plain, Rope, read_rope
from wirecut.engine.models.style import Style
from wirecut.spec.fields import Fields


def gemma3(fields: Fields) -> Style:
    if fields.flag("use_bidirectional_attention"):
        raise fields.error("use_bidirectional_attention is true: such a model writes no text")
    return replace(gemma2(fields), window_rope=_window_rope(fields))


def _window_rope(fields: Fields) -> Rope:
    """Before transformers 5 a base alone, which no scaling touched."""
    if fields.inner("rope_parameters").has("sliding_attention"):
        return read_rope(fields, "sliding_attention")
    return Rope(fields.positive("rope_local_base_freq", default=10_000.0), Plain())
