"""Mistral: Llama with a window where the configuration gives one; heads of their own size."""

from wirecut.engine.models.style import Style
from wirecut.engine.rope import read_rope
from wirecut.spec.fields import Fields


def mistral(fields: Fields) -> Style:
    return Style(rope=read_rope(fields))
