"""Mixtral: Mistral with experts in every layer, weighed by a softmax over the chosen ones."""

from wirecut.engine.models.style import Style
from wirecut.engine.moe import Routing
from wirecut.engine.rope import read_rope
from wirecut.spec.fields import Fields


def mixtral(fields: Fields) -> Style:
    return Style(rope=read_rope(fields), routing=Routing(normed=True))
