"""Halves of layers that native code runs on cores: priced where the engine runs them."""

from dataclasses import replace
from itertools import combinations

import pytest

from fabrics import fabric, model
from pricing import BARE, US, bundled
from wirecut.cost.engines import Steps
from wirecut.cost.forward import Batch
from wirecut.cost.host import layer_host_s
from wirecut.cost.replica import Pricing, Replica
from wirecut.cost.step import price_forward
from wirecut.fabric.fabric import Fabric, Link
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut
from wirecut.planner.cutting import cut_for
from wirecut.spec.model import ModelSpec

OPS, HALF_S = 6, US / 4
ENGINE = replace(BARE, steps=Steps(ops_per_layer=OPS, native_halves=True))
LAYERS = 4
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}


def wires(count: int, kind: str = "shm", half_s: float = HALF_S) -> Fabric:
    """Cores of one machine that can, joined by this kind of wire."""
    made = fabric(count, launch_s=US, kinds=(kind,))
    return replace(made, devices=tuple(replace(one, half_s=half_s) for one in made.devices))


def layer_s(
    spec: ModelSpec, on: Fabric, *, tp: int = 1, rows: int = 1, dtype: str = "bf16"
) -> float:
    """Seconds of the host in a layer beside its products, as a forward has it."""
    pricing = Pricing(spec, on, dtype=dtype, engine=ENGINE)
    cut = Cut(Layout(tp=tp), tuple(range(tp)), ((0, spec.num_layers),))
    forward = price_forward(Replica(pricing, cut), Batch(decodes=rows, context=10.0))
    (launches,) = (one for one in forward.pieces if one.name == "launches")
    return launches.seconds / spec.num_layers


@pytest.mark.parametrize(
    ("changes", "native"),
    [
        ({}, 2),
        ({"model_type": "qwen2"}, 2),
        ({"model_type": "qwen3"}, 2),
        ({"attention_bias": True}, 1),
        ({"mlp_bias": True}, 1),
        ({"model_type": "qwen2", "hidden_act": "gelu_pytorch_tanh"}, 1),
        ({"head_dim": 48}, 1),
        ({"intermediate_size": 120}, 1),
        ({"model_type": "gemma2"}, 0),
        ({"model_type": "mixtral", **EXPERTS}, 1),
    ],
    ids=str,
)
def test_each_half_is_priced_as_the_engine_runs_it(changes: dict[str, object], native: int) -> None:
    spec = model(**{**HEADS, **changes})
    expected = native * HALF_S + (2 - native) / 2 * OPS * US
    assert layer_s(spec, wires(1)) == pytest.approx(expected)
    for elsewhere in ({"on": wires(1, half_s=0.0)}, {"on": wires(1), "dtype": "fp32"}):
        assert layer_s(spec, **elsewhere) == pytest.approx(OPS * US)


@pytest.mark.parametrize("kind", ["tcp", "ethernet"])
def test_ranks_that_share_no_memory_go_operation_by_operation(kind: str) -> None:
    spec = model(**HEADS)
    assert layer_s(spec, wires(2), tp=2) == pytest.approx(2 * HALF_S)
    assert layer_s(spec, wires(2, kind), tp=2) == pytest.approx(OPS * US)
    assert layer_s(spec, wires(2, kind), tp=1) == pytest.approx(2 * HALF_S)


def test_one_pair_over_a_network_is_enough() -> None:
    """The ring would not show it: 0-1-2-3 are neighbours by shared memory, 0 and 2 are not."""
    joined = wires(4)
    apart = [
        Link(a, b, "tcp" if (a, b) == (0, 2) else "shm", 1e-5, 1e9, "measured")
        for a, b in combinations(range(4), 2)
    ]
    spec = model(**{**HEADS, "num_key_value_heads": 4})
    assert layer_s(spec, joined, tp=4) == pytest.approx(2 * HALF_S)
    assert layer_s(spec, replace(joined, links=tuple(apart)), tp=4) == pytest.approx(OPS * US)


@pytest.mark.parametrize(("tp", "most"), [(1, 65_536), (2, 65_536), (4, 2047)])
def test_a_sum_in_several_pieces_is_not_native_code_s(tp: int, most: int) -> None:
    """64 x 2 bytes a row: 8 MiB are a slot, 256 KiB the most that four ranks sum in one round."""
    spec = model(**{**HEADS, "num_key_value_heads": 4})
    assert layer_s(spec, wires(tp), tp=tp, rows=most) == pytest.approx(2 * HALF_S)
    more_s = layer_s(spec, wires(tp), tp=tp, rows=most + 1)
    assert more_s == pytest.approx(2 * HALF_S if tp == 1 else OPS * US)


@pytest.mark.parametrize(
    ("name", "kind", "is_native"),
    [("llama", "shm", True), ("llama", "tcp", False), ("gemma", "shm", False)],
)
def test_a_cut_counts_the_time_of_halves_as_the_price_does(
    name: str, kind: str, is_native: bool
) -> None:
    """Operations take longer than the head, which weighs some layers where halves take next to
    nothing.
    """
    changes = {"model_type": "gemma2"} if name == "gemma" else {}
    spec = model(**{**HEADS, **changes, "num_hidden_layers": 40, "tie_word_embeddings": False})

    def stages(on: Fabric) -> object:
        engine = replace(BARE, steps=Steps(ops_per_layer=100 * OPS, native_halves=True))
        pricing = Pricing(spec, on, dtype="bf16", engine=engine)
        return cut_for(pricing, Layout(tp=2, pp=2), (0, 1, 2, 3), context=100.0, slack=0).stages

    with_halves, without = (stages(wires(4, kind, half_s)) for half_s in (HALF_S, 0.0))
    assert (with_halves != without) == is_native


def test_other_engines_pay_as_they_did() -> None:
    spec, on = bundled("qwen3-8b"), wires(2, half_s=HALF_S)
    for engine in (replace(BARE, steps=Steps(ops_per_layer=OPS)), replace(BARE, steps=Steps())):
        pricings = (
            Pricing(spec, wires_, dtype="bf16", engine=engine)
            for wires_ in (on, wires(2, half_s=0.0))
        )
        cut = Cut(Layout(tp=2), (0, 1), ((0, spec.num_layers),))
        ours, theirs = (
            price_forward(Replica(one, cut), Batch(decodes=2, context=10.0)) for one in pricings
        )
        assert ours.compute_s == theirs.compute_s


def test_a_layer_that_does_nothing_takes_its_operations_at_most() -> None:
    """As layers that a search for a smaller model has emptied."""
    pricing = Pricing(model(), fabric(1, launch_s=US), dtype="bf16", engine=BARE)
    work = pricing.sizes(Layout())[0].works[0]
    empty = replace(work, mixer=None, mlp=None, native_halves=0)
    assert empty.reduces == 0
    layer_host_s(pricing, empty, rows=1, ranks=1, half_s=US, launch_s=US)
