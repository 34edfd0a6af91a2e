"""Phi-3 and Phi-4: Llama whose q, k and v, and gate and up, are stored as one tensor each; since
Phi-4-mini a share of each head turns.
"""

from wirecut.engine.models.ropes import read_rope
from wirecut.engine.models.style import Style, read_gate
from wirecut.spec.fields import Fields


def phi3(fields: Fields) -> Style:
    return Style(rope=read_rope(fields), gate=read_gate(fields))
