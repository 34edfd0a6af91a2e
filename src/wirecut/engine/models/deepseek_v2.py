"""DeepSeek-V2: latent attention, first layers dense, shared experts, experts chosen from the best
groups of them.
"""

from wirecut.engine.models.ropes import mscales, read_rope, yarn_magnitude
from wirecut.engine.models.style import Routing, Style, read_gate
from wirecut.spec.fields import Fields
from wirecut.spec.hf import rope_fields, rope_kind

METHODS = ("greedy", "group_limited_greedy")


def deepseek_v2(fields: Fields) -> Style:
    method = fields.text("topk_method", "greedy")
    if method not in METHODS:
        raise fields.error(f"topk_method is {method!r}, expected one of {', '.join(METHODS)}")
    if fields.flag("norm_topk_prob"):
        raise fields.error("norm_topk_prob is true, expected false as in DeepSeek-V2's models")
    grouped = method == "group_limited_greedy"
    return Style(
        rope=read_rope(fields),
        gate=read_gate(fields),
        scale=latent_scale(fields),
        paired_rope=True,
        routing=Routing(
            normed=False,
            factor=fields.positive("routed_scaling_factor"),
            groups=fields.count("n_group") if grouped else 1,
            top_groups=fields.count("topk_group") if grouped else 1,
        ),
    )


def latent_scale(fields: Fields) -> float:
    """Of attention scores: 1 / sqrt(D), times the square of YaRN's magnitude where `mscale_all_dim`
    asks for it.
    """
    dim = fields.count("qk_nope_head_dim") + fields.count("qk_rope_head_dim")
    found = rope_fields(fields)
    _, of_all = mscales(found)
    if not of_all or rope_kind(found) == "default":
        return dim**-0.5
    return dim**-0.5 * yarn_magnitude(found.positive("factor"), of_all) ** 2
