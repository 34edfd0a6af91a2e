"""What goes over the wires: calls and bytes by hand, in the terms of a price, and as priced."""

import math

import pytest

from fabrics import model
from pricing import bundled, candidate_of, on_gpus, priced, replica_of
from wirecut.cost.estimate import price
from wirecut.cost.exchange import Tokens
from wirecut.cost.forward import Batch
from wirecut.cost.step_wires import between, wires
from wirecut.cost.terms import Estimate
from wirecut.cost.wire import Axis, WireCount, WireItem, exchange_items, wire_items, wire_traffic
from wirecut.layout.layout import Layout, parse_layout
from wirecut.spec.feedforward import Moe
from wirecut.spec.model import ModelSpec
from wirecut.spec.traffic import Traffic

SCOUT, QWEN, DEEPSEEK, NEMOTRON = (
    "meta-llama/Llama-4-Scout-17B-16E-Instruct",
    "Qwen/Qwen3-30B-A3B",
    "deepseek-ai/DeepSeek-V2-Lite",
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
)


def items_of(
    spec: ModelSpec, layout: str, *, handoffs: int = 1, copies: int = 0, sums: bool = True
) -> dict[str, WireItem]:
    """One forward of 40 tokens, 12 of which want logits."""
    cut = parse_layout(layout)
    found = wire_items(
        spec,
        cut,
        forwards=1,
        tokens=40,
        logit_rows=12,
        gathers=1,
        dtype="bf16",
        handoffs=handoffs,
        sums=sums,
    )
    found += exchange_items(spec, cut, forwards=1, copies=copies, dtype="bf16")
    return {item.name: item for item in found}


def test_wire_traffic_by_hand():
    # 2 x 4 + 1 = 9 all-reduces of tokens x 64 x 2 B a forward; logits 1000 x 2 B a row
    sums = {"forwards": 3, "tokens": 40, "logit_rows": 12, "gathers": 2}
    assert wire_traffic(wire_items(model(), Layout(tp=2, pp=3), **sums, dtype="bf16")) == {
        "tp": WireCount(9 * 3 + 2, 9 * 40 * 128 + 12 * 2000),
        "pp": WireCount(2 * 3, 2 * 40 * 128),
    }
    assert wire_traffic(wire_items(model(), Layout(dp=4), **sums, dtype="bf16")) == {}


def test_logits_are_padded_to_whole_shares():
    sums = {"forwards": 1, "tokens": 1, "logit_rows": 1, "gathers": 1}
    found = wire_traffic(wire_items(model(vocab_size=1001), Layout(tp=4), **sums, dtype="fp32"))
    assert found["tp"].bytes == 9 * 64 * 4 + 1004 * 4


def test_hidden_states_sent_apart_count_twice():
    one, two = (items_of(model(), "pp4", handoffs=n)["hand-off"] for n in (1, 2))
    assert one == WireItem("hand-off", "pp", 3, 3 * 40 * 128)
    assert two == WireItem("hand-off", "pp", 3, 2 * 3 * 40 * 128)


def test_experts_within_a_replica_are_summed_over_its_ranks():
    spec = bundled(QWEN)
    assert items_of(spec, "tp4") == items_of(spec, "tp4ep4")
    assert items_of(spec, "tp4")["all-reduce"].calls == 2 * 48 + 1


@pytest.mark.parametrize(
    ("name", "routed", "dense"), [(QWEN, 48, 0), (DEEPSEEK, 26, 1), (SCOUT, 48, 0)]
)
def test_experts_of_several_replicas_are_sent_their_tokens(name: str, routed: int, dense: int):
    """A row is sent with the number and weight of each pick; what comes back is summed over TP, or
    is the same on all TP ranks without that.
    """
    spec = bundled(name)
    top_k = next(layer.mlp.top_k for layer in spec.layers if isinstance(layer.mlp, Moe))
    row, copies = spec.hidden * 2, 123 * routed
    found = items_of(spec, "tp2dp4ep8", copies=copies)
    assert found["dispatch"] == WireItem("dispatch", "ep", routed, copies * (row + 8 * top_k))
    assert found["combine"] == WireItem("combine", "ep", routed, copies * row)
    mixers = routed + dense
    for sums in (True, False):
        calls = mixers + dense + 1 + sums * routed
        reduced = items_of(spec, "tp2dp4ep8", sums=sums)["all-reduce"]
        assert reduced == WireItem("all-reduce", "tp", calls, calls * 40 * row)
    assert set(items_of(spec, "dp8ep8")) == {"dispatch", "combine"}
    assert items_of(spec, "dp8") == {}


def test_a_layer_with_a_mixer_alone_has_one_sum():
    spec = bundled(NEMOTRON)
    alone = sum((layer.mixer is None) != (layer.mlp is None) for layer in spec.layers)
    assert alone == spec.num_layers
    assert items_of(spec, "tp2")["all-reduce"].calls == spec.num_layers + 1
    routed = sum(isinstance(layer.mlp, Moe) for layer in spec.layers)
    assert 0 < routed < spec.num_layers
    without = items_of(spec, "tp2dp2ep4", sums=False)
    assert without["all-reduce"].calls == spec.num_layers - routed + 1


@pytest.mark.parametrize("name", [QWEN, DEEPSEEK, NEMOTRON, "meta-llama/Llama-3.1-8B"])
@pytest.mark.parametrize("layout", ["tp2", "pp2", "tp2pp2", "tp4ep4", "dp4ep4", "tp2pp2dp2ep4"])
@pytest.mark.parametrize("engine", ["wirecut", "sglang"])
def test_what_is_priced_is_what_is_counted(name: str, layout: str, engine: str):
    spec = bundled(name)
    if "ep" in layout and "8B" in name:
        layout = layout.partition("ep")[0]
    replica = replica_of(on_gpus(name, "8xH200-SXM", engine), layout)
    batch = Batch(decodes=12, context=100, chunk=28, prompts=1)
    priced: dict[str, int] = {}
    for stage in range(len(replica.stages)):
        for line in wires(replica, stage, batch):
            priced[line.name] = priced.get(line.name, 0) + line.calls
    handoffs, _ = between(replica, batch)
    if handoffs:
        priced["hand-off"] = len(handoffs)
    assert priced.pop("step message", 0) == (replica.cut.layout.tp > 1)  # the runtime's own
    items = items_of(spec, layout, sums=engine == "wirecut")
    assert priced == {item.name: item.calls for item in items.values()}


def bytes_by_axis(estimate: Estimate, phase: str) -> dict[Axis, int]:
    found: dict[Axis, int] = {}
    for term in estimate.terms:
        if term.phase == phase and term.axis:
            found[term.axis] = found.get(term.axis, 0) + term.wire_bytes
    return found


@pytest.mark.parametrize("layout", ["tp2", "pp3", "tp2pp2", "tp4dp2"])
def test_wire_bytes_of_terms_are_the_formula(layout: str):
    spec, cut, users = model(), parse_layout(layout), 6
    one = priced(layout, Traffic(3000, 10, concurrency=users))
    running = math.ceil(users / cut.dp)
    batches = min(cut.pp, running)
    sums = {"prefill": (2, 3000, 1, 1), "decode": (batches, running, running, batches)}
    for phase, (forwards, tokens, logit_rows, gathers) in sums.items():
        expected = wire_traffic(
            wire_items(
                spec,
                cut,
                forwards=forwards,
                tokens=tokens,
                logit_rows=logit_rows,
                gathers=gathers,
                dtype="bf16",
            )
        )
        assert bytes_by_axis(one, phase) == {axis: one.bytes for axis, one in expected.items()}


def test_terms_of_experts_and_boundaries_carry_their_bytes():
    """16 users on 2 replicas of 2 stages: 8 tokens a step each, 48 layers of experts. vLLM hands
    over each token once.
    """
    pricing, traffic = on_gpus(QWEN, "4xH200-SXM", "vllm"), Traffic(512, 64, concurrency=16)
    one = price(candidate_of(pricing, "pp2dp2ep2", traffic), traffic)
    row, picks = pricing.spec.hidden * 2, 8 * 8
    found = {(term.name, term.axis): term for term in one.terms if term.phase == "decode"}
    for name, sent in (("dispatch", row + picks), ("combine", row)):
        assert found[name, "ep"].wire_bytes == 48 * 8 * sent
        assert found[name, "ep"].kind == "all-to-all"
        assert found[name, "ep"].seconds > 0
    assert found["hand-off", "pp"].wire_bytes == 2 * 8 * row
    prefill = bytes_by_axis(one, "prefill")
    assert prefill == {"ep": 48 * 512 * (2 * row + picks), "pp": 2 * 512 * row}


def test_what_is_routed_is_sent_once_to_each_rank_that_holds_an_expert_of_it():
    """Wirecut: of 8 picks among 128 experts on 4 holders of 2 ranks each."""
    pricing, traffic = on_gpus(QWEN, "8xH200-SXM", "wirecut"), Traffic(512, 64, concurrency=16)
    one = price(candidate_of(pricing, "tp2dp4ep4", traffic), traffic)
    found = {(term.name, term.axis): term for term in one.terms if term.phase == "decode"}
    copies = 48 * 4 * 2 * Tokens(1, 8, 128, 4).reached(4)
    assert found["combine", "ep"].wire_bytes == round(copies * pricing.spec.hidden * 2)


def test_another_engine_sends_twice_what_wirecut_does():
    traffic = Traffic(512, 64, concurrency=4)
    sent = {}
    for engine in ("wirecut", "vllm"):
        pricing = on_gpus("meta-llama/Llama-3.1-8B", "2xL40S", engine)
        sent[engine] = bytes_by_axis(
            price(candidate_of(pricing, "pp2", traffic), traffic), "decode"
        )
    assert sent["vllm"] == {"pp": 2 * sent["wirecut"]["pp"]}
