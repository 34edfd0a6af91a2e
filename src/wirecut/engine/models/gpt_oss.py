"""gpt-oss: biases everywhere, a sink per head, every other layer with a window, experts whose
SwiGLU is clamped.
"""

import torch

from wirecut.engine.models.blocks import Gate
from wirecut.engine.models.style import Style
from wirecut.engine.moe import Routing
from wirecut.engine.rope import read_rope
from wirecut.spec.fields import Fields


def gpt_oss(fields: Fields) -> Style:
    alpha = fields.positive("swiglu_alpha", default=1.702)
    limit = fields.positive("swiglu_limit", default=7.0)
    return Style(
        rope=read_rope(fields),
        gate=_clamped_swiglu(alpha, limit),
        routing=Routing(normed=True, bias_of="logits"),
    )


def _clamped_swiglu(alpha: float, limit: float) -> Gate:
    def gate(gate_up_TF: torch.Tensor) -> torch.Tensor:
        gate_TF, up_TF = gate_up_TF.chunk(2, dim=1)
        below_TF = gate_TF.clamp(max=limit)
        return (up_TF.clamp(-limit, limit) + 1) * below_TF * torch.sigmoid(below_TF * alpha)

    return gate
