"""What an architecture does in its own way, beside what its layers' sizes say (`spec.model`).

    style = Style(gate=geglu, rope=read_rope(fields))

Each architecture has a file here with a function from the fields of a configuration to a style.
"""

from collections.abc import Callable
from dataclasses import dataclass

from wirecut.engine.models.blocks import Gate
from wirecut.engine.moe import Routing
from wirecut.engine.rope import Rope
from wirecut.machine.kernels import swiglu
from wirecut.spec.fields import Fields


@dataclass(frozen=True, slots=True)
class Style:
    """The defaults are Llama's.

    `window_rope`: of layers with a window where it is another one. `offset_norms`: norms multiply
    by 1 + weight, in float32. `scale`: of attention scores; None: 1 / sqrt(head dim). `score_cap`,
    `logit_cap`: scores and logits are bent to stay below. `embed_scale`: of embeddings.
    `paired_rope`: the dims that turn together lie side by side, else half a head apart.
    """

    rope: Rope
    window_rope: Rope | None = None
    gate: Gate = swiglu
    offset_norms: bool = False
    scale: float | None = None
    score_cap: float | None = None
    logit_cap: float | None = None
    embed_scale: float = 1.0
    routing: Routing | None = None
    paired_rope: bool = False


ReadStyle = Callable[[Fields], Style]
