"""DeepSeek-V3 and R1: V2 with experts scored by a sigmoid, chosen with a correction that their
weights do not see, from groups judged by their best two.
"""

from wirecut.engine.models.deepseek_v2 import latent_scale
from wirecut.engine.models.ropes import read_rope
from wirecut.engine.models.style import Routing, Style, read_gate
from wirecut.spec.fields import Fields


def deepseek_v3(fields: Fields) -> Style:
    for name, expected in (("scoring_func", "sigmoid"), ("topk_method", "noaux_tc")):
        if (found := fields.text(name, expected)) != expected:
            raise fields.error(f"{name} is {found!r}, expected {expected!r}")
    return Style(
        rope=read_rope(fields),
        gate=read_gate(fields),
        scale=latent_scale(fields),
        paired_rope=fields.flag("rope_interleave", True),
        routing=Routing(
            scores="sigmoid",
            normed=fields.flag("norm_topk_prob", True),
            factor=fields.positive("routed_scaling_factor"),
            groups=fields.count("n_group"),
            top_groups=fields.count("topk_group"),
            judged_by=2,
            bias_of="choice",
        ),
    )
