"""Published serving runs as questions to `wirecut.estimate`, with the answers beside them.

    asked = [ask(row) for row in load(folder / "serving.jsonl")]
    asked[0].figures["tpot"].error

Uses nothing of wirecut but `estimate`.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wirecut

TIE = 0.05  # published repeats differ by about this much: closer pairs have no winner
SAME = 0.002  # predictions nearer than this say that both are alike
KINDS = {  # one figure of a kind a row: the first that was published
    "TPOT": (
        "tpot_ms",
        "itl_ms",
        "tpot_ms_median",
        "itl_ms_median",
        "decode_step_ms",
        "decode_tok_s_per_user",
    ),
    "TTFT": ("ttft_ms", "ttft_ms_median"),
    "throughput": ("output_tok_s", "total_tok_s", "req_s"),
    "latency": ("latency_s",),
}
INTERVALS = {"TPOT": "tpot_s", "TTFT": "ttft_s", "throughput": "output_tokens_per_s"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value and what was predicted; `inside`: it lies within the interval."""

    metric: str
    measured: float
    predicted: float
    inside: bool | None = None

    @property
    def error(self) -> float:
        """Relative: 0.1 is 10 per cent too high."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True, slots=True)
class Asked:
    """A row that was asked: its estimate, or why there is none. `figures` are of rows whose quality
    is A or B.
    """

    row: Mapping[str, Any]
    estimate: Any = None
    why: str | None = None

    @property
    def figures(self) -> dict[str, Figure]:
        if self.estimate is None or self.row["quality"] not in "AB":
            return {}
        known = {
            kind: next((name for name in names if self.row["metrics"].get(name)), None)
            for kind, names in KINDS.items()
        }
        return {kind: self._figure(kind, name) for kind, name in known.items() if name}

    def _figure(self, kind: str, metric: str) -> Figure:
        measured, predicted = self.row["metrics"][metric], self.value(metric)
        inside = None
        if kind in INTERVALS:
            key = INTERVALS[kind]
            low, high = (end / getattr(self.estimate, key) for end in self.estimate.interval[key])
            ratio = measured / predicted
            inside = low <= (1 / ratio if metric == "decode_tok_s_per_user" else ratio) <= high
        return Figure(metric, measured, predicted, inside)

    def value(self, metric: str) -> float:
        """What was predicted for a metric, in its unit."""
        one, work = self.estimate, self.row["workload"]
        outputs = work["output_len"]
        tokens = work["input_len"] + outputs
        known: dict[str, Callable[[], float]] = {
            "decode_tok_s_per_user": lambda: 1 / one.tpot_s,
            "output_tok_s": lambda: one.output_tokens_per_s,
            "total_tok_s": lambda: one.output_tokens_per_s * tokens / outputs,
            "req_s": lambda: one.output_tokens_per_s / outputs,
            "latency_s": lambda: one.ttft_s + one.tpot_s * (outputs - 1),
        }
        if metric in known:
            return known[metric]()
        return 1e3 * (one.ttft_s if metric.startswith("ttft") else one.tpot_s)

    @property
    def wire(self) -> str:
        """Class of interconnect: the outermost wires of the fabric."""
        fabric = self.row["fabric"]
        return fabric.split(":")[-1] if ":" in fabric and self.row["n_gpus"] > 1 else "single"

    @property
    def device(self) -> str:
        """'A100-SXM-40GB' of '2x4xA100-SXM-40GB:nvswitch:100gbe'."""
        parts = self.row["fabric"].split(":")[0].split("x")
        return "x".join(part for part in parts if not part.isdigit())

    @property
    def shape(self) -> str:
        """'4000+1000 tokens, 128 users'."""
        work = self.row["workload"]
        load = f"{work['concurrency']} users" if work.get("concurrency") else ""
        load = load or f"{work['request_rate']} requests/s"
        count = f" of {work['num_prompts']}" if work.get("num_prompts") else ""
        static = ", static batch" if work.get("static_batch") else ""
        return f"{work['input_len']}+{work['output_len']} tokens, {load}{count}{static}"


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def in_scope(row: Mapping[str, Any]) -> bool:
    """Whether a row says all that a question needs."""
    work = row["workload"]
    said = row["fabric"] and row["engine"] and row["dtype"]
    loaded = work.get("concurrency") or work.get("request_rate") is not None
    return bool(said and loaded and work.get("input_len") and work.get("output_len"))


def ask(row: Mapping[str, Any]) -> Asked:
    """Predict a row that is in scope."""
    work = row["workload"]
    load: dict[str, Any] = {"rate": float(work["request_rate"] or 0)}
    if work.get("concurrency"):
        static = bool(work.get("static_batch"))
        load = {"concurrency": work["concurrency"], "static_batch": static}
    traffic = wirecut.Traffic(
        work["input_len"], work["output_len"], num_requests=work.get("num_prompts"), **load
    )
    try:
        found = wirecut.estimate(
            row["model"],
            row["fabric"],
            layout=row["layout"],
            traffic=traffic,
            engine=row["engine"],
            dtype=row["dtype"],
        )
    except wirecut.WirecutError as error:
        return Asked(row, why=str(error))
    return Asked(row, found) if found.fits else Asked(row, why=found.reason)


@dataclass(frozen=True, slots=True)
class Contest:
    """Two splits of the same machine and workload, and whether the prediction orders them right by
    `metric`. `right` 0.5: it says both are alike; None: repeats differ by more than they do.
    """

    group: str
    wire: str
    a: Asked
    b: Asked
    metric: str
    lower: bool
    measured: tuple[float, float]
    right: float | None


def contests(asked: Iterable[Asked], pairs: Sequence[Mapping[str, Any]]) -> list[Contest]:
    """The pairs that can be judged."""
    known = {one.row["id"]: one for one in asked if one.estimate is not None}
    metrics = {name for names in KINDS.values() for name in names}
    found: list[Contest] = []
    for pair in pairs:
        a, b, metric = known.get(pair["a"]), known.get(pair["b"]), pair["metric"]
        if not (a and b and pair["same_workload"] and metric in metrics) or pair["quality"] == "D":
            continue
        lower, measured = pair["better"] == "low", (pair["a_val"], pair["b_val"])
        ours = pair["a"] if (a.value(metric) < b.value(metric)) == lower else pair["b"]
        alike = abs(a.value(metric) / b.value(metric) - 1) < SAME
        right = None if abs(pair["ratio"] - 1) < TIE else float(ours == pair["winner"])
        if right is not None and alike:
            right = 0.5
        wire = pair["interconnect_class"]
        found.append(Contest(pair["group"], wire, a, b, metric, lower, measured, right))
    return found


def regrets(found: Iterable[Contest]) -> list[float]:
    """By how much the split that is predicted best is worse than the best that was measured, of
    every group of splits.
    """
    groups: dict[tuple[str, str, bool], dict[str, tuple[float, float]]] = {}
    for one in found:
        options = groups.setdefault((one.group, one.metric, one.lower), {})
        for asked, measured in zip((one.a, one.b), one.measured, strict=True):
            seconds = measured if one.lower else 1 / measured
            value = asked.value(one.metric)
            options[asked.row["id"]] = (value if one.lower else 1 / value, seconds)
    return [
        min(options.values(), key=lambda pair: pair[0])[1]
        / min(seconds for _, seconds in options.values())
        - 1
        for options in groups.values()
    ]
