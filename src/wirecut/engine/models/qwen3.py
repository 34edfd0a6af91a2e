"""Qwen3: Llama with a norm of each query and key head, which needs no exchange between ranks."""

from wirecut.engine.models.ropes import read_rope
from wirecut.engine.models.style import Style, read_gate
from wirecut.spec.fields import Fields


def qwen3(fields: Fields) -> Style:
    return Style(rope=read_rope(fields), gate=read_gate(fields))
