"""gpt-oss: biases everywhere, a sink per head, every other layer with a window, experts whose
SwiGLU is clamped.
"""

from wirecut.engine.models.ropes import read_rope
from wirecut.engine.models.style import Gate, Routing, Style
from wirecut.spec.fields import Fields


def gpt_oss(fields: Fields) -> Style:
    alpha = fields.positive("swiglu_alpha", default=1.702)
    limit = fields.positive("swiglu_limit", default=7.0)
    return Style(
        rope=read_rope(fields),
        gate=Gate("clamped", alpha, limit),
        routing=Routing(normed=True, bias_of="logits"),
    )
