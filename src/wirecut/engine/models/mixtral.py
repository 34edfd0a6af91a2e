"""Mixtral: Mistral with experts in every layer, weighed by a softmax over the chosen ones."""

from wirecut.engine.models.ropes import read_rope
from wirecut.engine.models.style import Routing, Style, read_gate
from wirecut.spec.fields import Fields


def mixtral(fields: Fields) -> Style:
    return Style(
        rope=read_rope(fields),
        gate=read_gate(fields),
        routing=Routing(normed=True),
    )
