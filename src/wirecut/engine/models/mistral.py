"""Mistral: Llama with a window where the configuration gives one; heads of their own size."""

from wirecut.engine.models.ropes import read_rope
from wirecut.engine.models.style import Style, read_gate
from wirecut.spec.fields import Fields


def mistral(fields: Fields) -> Style:
    return Style(rope=read_rope(fields), gate=read_gate(fields))
