"""One layout's price in words: its totals, and every term with its formula."""

from wirecut.cost.terms import Estimate, Memory, Rejected
from wirecut.explain.budget import Row
from wirecut.explain.page import Block, Grid, Heading, Paragraph
from wirecut.explain.tables import budget_table
from wirecut.explain.words import (
    layout_in_words,
    memory_in_words,
    placed_in_words,
    tokens_per_s,
    used_bytes,
    within,
)
from wirecut.spec.traffic import Traffic
from wirecut.units import show_bytes, show_seconds


def page(estimate: Estimate, traffic: Traffic) -> list[Block]:
    """Totals, memory, where a request's time goes, then the terms of each phase."""
    memory = estimate.memory
    low, high = estimate.interval["output_tokens_per_s"]
    rates = f"{tokens_per_s(low)} to {tokens_per_s(high)}"
    idle = f", stages idle {estimate.bubble_fraction:.0%}" if len(estimate.stages) > 1 else ""
    return [
        Heading(f"{estimate.layout}: {layout_in_words(estimate)}, {placed_in_words(estimate)}"),
        Paragraph(
            f"{traffic.describe()}: {tokens_per_s(estimate.output_tokens_per_s)} tok/s ({rates}), "
            f"{estimate.requests_per_s:.3g} requests/s, {estimate.running} at once a replica{idle}"
        ),
        Paragraph(
            f"{show_bytes(used_bytes(memory))} {memory_in_words(memory, estimate.placement)}: "
            f"{_parts(memory)}; room for {memory.kv_tokens} tokens of KV"
        ),
        *budget_table(traffic.output_tokens, [Row(1, estimate)]),
        Heading(f"TTFT {show_seconds(estimate.ttft_s)}  ({within(estimate.interval['ttft_s'])})"),
        _terms(estimate, "prefill"),
        Heading(f"TPOT {show_seconds(estimate.tpot_s)}  ({within(estimate.interval['tpot_s'])})"),
        _terms(estimate, "decode"),
    ]


def _parts(memory: Memory) -> str:
    parts = (
        ("weights", memory.weights_bytes),
        ("KV", memory.kv_bytes),
        ("activations", memory.activation_bytes),
        ("buffers and graphs", memory.buffer_bytes),
    )
    return " + ".join(f"{name} {show_bytes(size)}" for name, size in parts if size)


def _terms(estimate: Estimate, phase: str) -> Grid:
    terms = [term for term in estimate.terms if term.phase == phase]
    rows = [
        (
            term.name,
            show_seconds(term.seconds),
            show_bytes(term.wire_bytes) if term.axis else "",
            f"{term.source} {term.spread:.0%}",
            term.because,
        )
        for term in terms
    ]
    return Grid(("term", ">time", ">on wires", "source, +-", "because"), rows)


def rejection(rejected: Rejected) -> str:
    """'tp8 does not work: ...'."""
    return f"{rejected.layout} does not work: {rejected.reason}"
