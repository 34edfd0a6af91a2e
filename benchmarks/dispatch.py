#!/usr/bin/env python3
"""Dispatch and combine of experts' tokens as priced beside as measured: a Markdown page.

    python benchmarks/dispatch.py GROUND_TRUTH_DIR > benchmarks/dispatch.md

GROUND_TRUTH_DIR holds moe_dispatch.csv.gz. Every system becomes the fabric that a person would
type. "Left out": each kind of device is priced with constants refitted without any row of it.
"""

import argparse
import csv
import gzip
import math
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Literal

from wirecut.cost.collectives import collective_price
from wirecut.cost.exchange import (
    DEEPEP,
    DEEPEP_LL,
    ONE_SIDED,
    Half,
    Kernel,
    Tokens,
    kernel_way,
)
from wirecut.cost.lanes import wiring_of
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.typed import typed_fabric
from wirecut.spec.formats import element_bits
from wirecut.units import show_seconds
from wirecut.version import __version__

Phase = Literal["dispatch", "combine"]
DEVICES = {
    "h100_sxm": ("H100-SXM", 8),
    "h200_sxm": ("H200-SXM", 8),
    "b200_sxm": ("B200-SXM", 8),
    "b300_sxm": ("B300-SXM", 8),
    "gb200": ("GB200", 4),
    "gb300": ("GB300", 4),
}  # as typed, and how many a node has
NETWORK = "ib-400x8"  # the source names none; its bytes over time are 8 rails of 400 Gb/s
FITTED_ROWS = 100  # of each system and number of nodes
FITTED = ("start", "hop", "net_hop", "share", "most_bytes_per_s", "head_bytes")
SMS = "20.0"  # that DeepEP takes unless told otherwise
FP8 = element_bits("mxfp8") / 8
NOTES = (
    "- DeepEP over eight boxes moves half of what it moves over four, and what its low-latency"
    " kernels move over eight: nothing in the wires says why.",
    "- Low-latency dispatch with one or two experts on a rank is bound by the few warps that serve"
    " an expert; models that run EP have more. Its start also grows with the experts (B200: 16 us"
    " of 128, 29 us of 512).",
    "- DeepEP's combine of few tokens starts sooner the narrower they are (H100: 30 us at 2,048, 48"
    " us at 7,168); priced as one start.",
    "- Low-latency kernels start sooner among the four ranks of a GB200 or GB300 node (12 to 18 us)"
    " than among eight B200 (17 to 22 us); priced as one start.",
    "- DeepEP's combine over two boxes takes a quarter longer than priced, over four as priced.",
    "",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One measured call."""

    kernel: Kernel
    phase: Phase
    system: str
    nodes: int
    ranks: int
    tokens: Tokens
    row_bytes: float
    seconds: float
    host: str = ""  # the runtime whose own work is in the time

    @property
    def fabric(self) -> Fabric:
        return _fabric(self.system, self.nodes, self.ranks)

    @property
    def half(self) -> Half:
        """The shipped constants."""
        return self.kernel.dispatch if self.phase == "dispatch" else self.kernel.combine

    def priced(self, half: Half | None = None) -> float:
        """Seconds, with other constants where given."""
        wiring = wiring_of(self.fabric, range(self.ranks))
        by = half or self.half
        return kernel_way(self.kernel, by, wiring, self.tokens, self.row_bytes).seconds

    def by_collectives(self) -> float:
        """Seconds of the faster of a plain all-to-all and all tokens to all ranks, in 16 bits."""
        wide = self.row_bytes if self.phase == "combine" else 2 * self.row_bytes
        op = "all_gather" if self.phase == "dispatch" else "reduce_scatter"
        sent = self.tokens.rows * wide * self.tokens.reached(self.ranks)
        group, everything = range(self.ranks), self.tokens.rows * wide * self.ranks
        sparse = collective_price(self.fabric, "all_to_all", group, sent)
        whole = collective_price(self.fabric, op, group, everything)
        return min(sparse.seconds, whole.seconds)


_FABRICS: dict[tuple[str, int, int], Fabric] = {}


def _fabric(system: str, nodes: int, ranks: int) -> Fabric:
    key = (system, nodes, ranks)
    if key not in _FABRICS:
        device, _ = DEVICES[system]
        inter = "mnnvl" if device.startswith("GB") else NETWORK
        each = f"{ranks // nodes}x{device}:nvswitch"
        _FABRICS[key] = typed_fabric(each if nodes == 1 else f"{nodes}x{each}:{inter}")
    return _FABRICS[key]


def _deepep(row: dict[str, str]) -> Iterable[Row]:
    """SGLang's runs of DeepEP alone, whose tokens go to experts at random."""
    nodes = int(float(row["node_num"]))
    ranks = nodes * DEVICES[row["system"]][1]
    hidden, low = int(row["hidden_size"]), row["op_name"] == "ll"
    tokens = Tokens(
        float(row["num_token"]), int(float(row["num_topk"])), int(row["num_experts"]), ranks
    )
    for phase, row_bytes in (("dispatch", hidden * FP8), ("combine", hidden * 2.0)):
        names = ("avg_t_us",) if low else ("transmit_us", "notify_us")
        seconds = sum(float(row[f"{phase}_{name}"]) for name in names) * 1e-6
        kernel = DEEPEP_LL if low else DEEPEP
        yield Row(kernel, phase, row["system"], nodes, ranks, tokens, row_bytes, seconds)


def _one_sided(row: dict[str, str]) -> Iterable[Row]:
    """TensorRT-LLM's, whose tokens go to as many ranks as they can."""
    ranks, hidden = int(float(row["moe_ep_size"])), int(row["hidden_size"])
    tokens = Tokens(float(row["num_tokens"]), min(ranks, int(float(row["topk"]))), ranks, ranks)
    phase: Phase = "combine" if row["op_name"].endswith("combine") else "dispatch"
    bits = 16.0 if phase == "combine" else element_bits(row["moe_dtype"])
    nodes = max(1, ranks // DEVICES[row["system"]][1])
    seconds = float(row["latency"]) * 1e-3
    yield Row(ONE_SIDED, phase, row["system"], nodes, ranks, tokens, hidden * bits / 8, seconds)


def _with_host(row: dict[str, str]) -> Iterable[Row]:
    """DeepEP as vLLM and TensorRT-LLM call it, call by call from the host."""
    ranks, hidden = DEVICES[row["system"]][1], int(row["hidden_size"])
    picks, experts = int(float(row["topk"])), int(row["num_experts"])
    phase: Phase = "combine" if row["phase"] == "combine" else "dispatch"
    bits = {"fp8": 8 * FP8, "nvfp4": element_bits("nvfp4")}.get(row["comm_dtype"], 16.0)
    if phase == "combine":
        bits = 16.0
    yield Row(
        DEEPEP_LL if "_ll" in row["comm_backend"] else DEEPEP,
        phase,
        row["system"],
        1,
        ranks,
        Tokens(float(row["num_tokens"]), picks, experts, ranks),
        hidden * bits / 8,
        float(row["latency"]) * 1e-6,
        "TensorRT-LLM" if row["comm_backend"].startswith("trtllm") else "vLLM",
    )


def load(path: Path) -> tuple[list[Row], dict[str, int]]:
    """Rows that a kernel stands for, and how many others there are by what they measure."""
    found: list[Row] = []
    others: dict[str, int] = defaultdict(int)
    with gzip.open(path, "rt", newline="") as lines:
        for row in csv.DictReader(lines):
            what = f"{row['kernel_source']} {row['op_name']} {row['comm_backend']}".strip()
            if row["op_name"] == "normal" and row["dispatch_sms"] != SMS:
                others[f"{what}, with other than 20 SMs"] += 1
            elif row["op_name"] in ("ll", "normal"):
                found += _deepep(row)
            elif row["kernel_source"] == "NVLinkOneSided":
                found += _one_sided(row)
            elif row["comm_backend"] and "v2" not in row["comm_backend"]:
                found += _with_host(row)
            else:
                others[what] += 1
    return found, others


def _loss(rows: Sequence[Row], half: Half) -> float:
    """Mean error over systems and numbers of nodes, a row's at most a factor e."""
    groups: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in rows:
        off = abs(math.log(row.priced(half) / row.seconds))
        groups[row.system, row.ranks].append(min(1.0, off))
    return statistics.mean(statistics.mean(group) for group in groups.values())


def fit(rows: Sequence[Row]) -> Half:
    """Constants of one kernel's phase that suit `rows`, one after another in ever smaller steps."""
    groups: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.system, row.ranks].append(row)
    pick = random.Random(0)
    few = [r for g in groups.values() for r in pick.sample(g, min(FITTED_ROWS, len(g)))]
    half, step = rows[0].half, 0.2
    best = _loss(few, half)
    while step > 0.02:
        before = best
        for name in FITTED:
            for factor in (1 + step, 1 / (1 + step)):
                tried = replace(half, **{name: getattr(half, name) * factor})
                loss = _loss(few, tried)
                if loss < best:
                    best, half = loss, tried
        step = step if best < before else step / 2
    return half


@dataclass(frozen=True, slots=True)
class Error:
    """A row and its relative error."""

    row: Row
    error: float


def errors(rows: Iterable[Row], price: Callable[[Row], float]) -> list[Error]:
    """Of every row."""
    return [Error(row, price(row) / row.seconds - 1) for row in rows]


def left_out(rows: Sequence[Row]) -> list[Error]:
    """Each kind of device with constants fitted without it; H100 and H200 are one kind, and so are
    B200 with B300 and GB200 with GB300: the wires are theirs alike.
    """
    found: list[Error] = []
    for kernel in (DEEPEP, DEEPEP_LL):
        for phase in ("dispatch", "combine"):
            own = [row for row in rows if row.kernel is kernel and row.phase == phase]
            for letter in ("h", "b", "g"):
                rest = [row for row in own if row.system[0] != letter]
                half = fit(rest)
                mine = [r for r in own if r.system[0] == letter and (r.nodes == 1 or letter != "h")]
                found += errors(mine, lambda row, half=half: row.priced(half))
    return found


def figures(found: Sequence[Error]) -> str:
    """`rows | median | p90 | bias`."""
    sizes = sorted(abs(one.error) for one in found)
    bias = statistics.median(one.error for one in found)
    p90 = sizes[int(0.9 * (len(sizes) - 1))]
    return f"{len(sizes)} | {statistics.median(sizes):.0%} | {p90:.0%} | {bias:+.0%}"


def table(title: str, found: Sequence[Error], name: Callable[[Row], str]) -> list[str]:
    """Errors by a name of each row."""
    groups: dict[str, list[Error]] = defaultdict(list)
    for one in found:
        groups[name(one.row)].append(one)
    lines = [f"| {title} | rows | median error | p90 | bias |", "|---|---|---|---|---|"]
    return [*lines, *(f"| {key} | {figures(groups[key])} |" for key in sorted(groups)), ""]


def what(row: Row) -> str:
    return f"{row.kernel.name}, {row.phase}"


def size(row: Row) -> str:
    edges = ((16, "1 to 15"), (129, "16 to 128"), (1025, "129 to 1,024"))
    return next((text for edge, text in edges if row.tokens.rows < edge), "more than 1,024")


def misses(found: Sequence[Error]) -> list[str]:
    """Shapes of a system that are off by more than 30 % in the median."""
    groups: dict[str, list[Error]] = defaultdict(list)
    for one in found:
        row = one.row
        shape = f"top {row.tokens.top_k} of {row.tokens.experts}"
        groups[f"{what(row)}, {row.nodes} x {row.ranks // row.nodes} {row.system}, {shape}"] += [
            one
        ]
    lines = ["| group | rows | median error | p90 | bias | largest: measured, priced |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, own in sorted(groups.items()):
        if statistics.median(abs(one.error) for one in own) > 0.3:
            last = max(own, key=lambda one: one.row.tokens.rows).row
            times = f"{show_seconds(last.seconds)}, {show_seconds(last.priced())}"
            lines.append(f"| {name} | {figures(own)} | {times} |")
    return [*lines, ""]


def report(directory: Path) -> list[str]:
    """The whole page."""
    rows, others = load(directory / "moe_dispatch.csv.gz")
    alone, hosted = [r for r in rows if not r.host], [r for r in rows if r.host]
    shipped = errors(alone, lambda row: row.priced())
    lines = [
        "# Dispatch and combine, priced and measured",
        "",
        f"{date.today()}, wirecut {__version__}, "
        "`python benchmarks/dispatch.py GROUND_TRUTH_DIR > benchmarks/dispatch.md`.",
        "Errors are of seconds, relative to what was measured; tokens are of one rank.",
        "",
        "## A device left out whole",
        "",
        "One box; constants refitted without any row of the device or of its like.",
        "",
        *table("kernel, device", left_out(alone), lambda r: f"{what(r)}, {r.system}"),
        "## With the shipped constants, fitted to all",
        "",
        *table("kernel", shipped, what),
        *table("system, ranks", shipped, lambda r: f"{what(r)}, {r.system}, {r.ranks:02d} ranks"),
        *table("tokens", shipped, lambda r: f"{what(r)}, {size(r)}"),
        "Were the same done by collectives, the faster of all-gather and all-to-all:",
        "",
        *table("kernel", errors(alone, Row.by_collectives), what),
        "## Called from the host",
        "",
        "vLLM and TensorRT-LLM timed DeepEP call by call: launches, quantising and waiting for the"
        " counts are in the time, and a captured step pays none of it. Priced as above, by tokens:",
        "",
        *table(
            "runtime",
            errors(hosted, lambda row: row.priced()),
            lambda r: f"{r.host}, {what(r)}, {size(r)}",
        ),
        "## Misses: off by more than 30 % in the median",
        "",
        *misses(shipped),
        *NOTES,
        "## Not priced",
        "",
    ]
    return [*lines, *(f"- {name}: {count:,} rows" for name, count in sorted(others.items()))]


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("ground_truth", type=Path)
    print("\n".join(report(parser.parse_args().ground_truth)))


if __name__ == "__main__":
    main()
