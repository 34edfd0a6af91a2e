"""Llama: grouped-query attention, SwiGLU, often a tied head; rope scaled since 3.1."""

from wirecut.engine.models.ropes import read_rope
from wirecut.engine.models.style import Style, read_gate
from wirecut.spec.fields import Fields


def llama(fields: Fields) -> Style:
    return Style(rope=read_rope(fields), gate=read_gate(fields))
