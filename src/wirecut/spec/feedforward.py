"""What a layer does with each token alone: an MLP, or a mixture of experts.

Mlp(14336)
Moe(experts=128, top_k=8, intermediate=768)
"""

from collections.abc import Iterator
from dataclasses import replace

from wirecut.facts import fact
from wirecut.spec.tensor import Tensor, column, cut, row, whole

NAMES = ("gate_proj", "up_proj", "down_proj")


@fact
class Mlp:
    """Up to `intermediate` and back; `gated`: a second projection gates the first (SwiGLU).

    `act`: the activation, as configurations name it. `names`: what the checkpoint calls gate, up
    and down.
    """

    intermediate: int
    gated: bool = True
    bias: bool = False
    act: str = "silu"
    names: tuple[str, str, str] = NAMES

    def tensors(self, hidden: int) -> Iterator[Tensor]:
        wide, (gate, up, down) = self.intermediate, self.names
        if self.gated:
            yield column(f"{gate}.weight", "gate", wide, hidden, units=wide)
        yield column(f"{up}.weight", "up", wide, hidden, units=wide)
        yield row(f"{down}.weight", "down", hidden, wide, units=wide)
        if self.bias:
            for name in (gate, up) if self.gated else (up,):
                yield cut(f"{name}.bias", "bias", (wide,), units=wide)
            yield whole(f"{down}.bias", "bias", hidden)


@fact
class Moe:
    """A mixture of experts: a router sends each token to `top_k` of `experts` MLPs.

    `intermediate` is one expert's. `shared`: intermediate size of what every token passes besides,
    in all; `shared_gate`: one learned weight of it. `latent`: experts work on a projection of
    hidden to this width, and `latent_norm` norms what they return. `router_bias`: of the scores.
    `shared_name`, `names`, `router_names`: what the checkpoint calls the shared experts, gate, up
    and down, and the router's weight and bias. `turned`: where it stacks experts, gate and up come
    in turn, and of what is not quantised inputs before outputs.
    """

    experts: int
    top_k: int
    intermediate: int
    shared: int = 0
    shared_gate: bool = False
    gated: bool = True
    bias: bool = False
    latent: int | None = None
    latent_norm: bool = False
    router_bias: bool = False
    shared_name: str = "shared_experts"
    names: tuple[str, str, str] = NAMES
    router_names: tuple[str, str] = ("gate.weight", "gate.e_score_correction_bias")
    turned: bool = False

    def tensors(self, hidden: int) -> Iterator[Tensor]:
        router, router_bias = self.router_names
        yield whole(router, "router", self.experts, hidden)
        if self.router_bias:
            yield whole(router_bias, "bias", self.experts)
        if self.latent:
            yield whole("fc1_latent_proj.weight", "latent", self.latent, hidden)
            yield whole("fc2_latent_proj.weight", "latent", hidden, self.latent)
            if self.latent_norm:
                yield whole("latent_norm.weight", "norm", self.latent)
        one = Mlp(self.intermediate, gated=self.gated, bias=self.bias, names=self.names)
        for tensor in one.tensors(self.latent or hidden):
            yield replace(tensor, name="experts.{expert}." + tensor.name, experts=self.experts)
        if self.shared:
            for tensor in Mlp(self.shared, gated=self.gated).tensors(hidden):
                yield replace(tensor, name=f"{self.shared_name}.{tensor.name}")
        if self.shared_gate:
            yield whole("shared_expert_gate.weight", "router", 1, hidden)
