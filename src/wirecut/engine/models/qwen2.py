"""Qwen2 and 2.5: Llama with biases on queries, keys and values, cut with their columns."""

from wirecut.engine.models.ropes import read_rope
from wirecut.engine.models.style import Style, read_gate
from wirecut.spec.fields import Fields


def qwen2(fields: Fields) -> Style:
    return Style(rope=read_rope(fields), gate=read_gate(fields))
