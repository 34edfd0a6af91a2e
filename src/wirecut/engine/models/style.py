"""What an architecture does in its own way, beside what its layers' sizes say (`spec.model`).

    style = Style(rope=read_rope(fields), gate=read_gate(fields))

Each architecture has a file here with a function from the fields of a configuration to a style.
None imports torch, so that a configuration is judged before anything starts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from wirecut.engine.models.ropes import Rope
from wirecut.spec.fields import Fields


@dataclass(frozen=True, slots=True)
class Gate:
    """What an MLP does with its gate and what is gated: act(gate) x up.

    "clamped" is gpt-oss's: gate x sigmoid(`alpha` x gate) x (up + 1), both kept within `limit`.
    """

    act: Literal["silu", "gelu_pytorch_tanh", "clamped"] = "silu"
    alpha: float = 1.0
    limit: float = 0.0


@dataclass(frozen=True, slots=True)
class Routing:
    """How an architecture chooses experts and weighs them.

    `scores`: of the logits. `normed`: the weights of the chosen sum to one; `factor` multiplies
    them. `bias_of`: what a bias is added to, the logits, or scores for the choice alone. The
    choice is among the best `top_groups` of `groups`, judged by their best `judged_by` experts.
    """

    scores: Literal["softmax", "sigmoid"] = "softmax"
    normed: bool = True
    factor: float = 1.0
    groups: int = 1
    top_groups: int = 1
    judged_by: int = 1
    bias_of: Literal["logits", "choice"] = "logits"


@dataclass(frozen=True, slots=True)
class Style:
    """The defaults are Llama's.

    `gate`: what an MLP does with its gate and what is gated. `window_rope`: of layers with a window
    where it is another one. `offset_norms`: norms multiply by 1 + weight, in float32. `scale`: of
    attention scores; None: 1 / sqrt(head dim). `score_cap`, `logit_cap`: scores and logits are bent
    to stay below. `embed_scale`: of embeddings. `routing`: of its experts. `paired_rope`: the dims
    that turn together lie side by side, else half a head apart.
    """

    rope: Rope
    gate: Gate
    window_rope: Rope | None = None
    offset_norms: bool = False
    scale: float | None = None
    score_cap: float | None = None
    logit_cap: float | None = None
    embed_scale: float = 1.0
    routing: Routing | None = None
    paired_rope: bool = False


GATES: dict[str, Gate] = {"silu": Gate("silu"), "gelu_pytorch_tanh": Gate("gelu_pytorch_tanh")}


def read_gate(fields: Fields, name: str = "hidden_act", default: str = "silu") -> Gate:
    """By the activation that a configuration names. Raises ModelError."""
    act = fields.text(name, default)
    if act not in GATES:
        raise fields.error(f"{name} is {act!r}; wirecut runs {', '.join(GATES)}")
    return GATES[act]


ReadStyle = Callable[[Fields], Style]
