"""README.md of this folder, from results.json: medians, spreads, ratios, and the misses."""

import statistics
from dataclasses import dataclass
from typing import Any

from page import PAGE

Runs = list[dict[str, Any]]
OURS, RIVAL = "wirecut", "vLLM"
SEQUENCES = ("1 sequence", "8 sequences", "16 sequences")
MOST_LOAD_S, LEAST_SHARE = 4.0, 0.75
WHOLE_PROMPTS = ", whole prompts"  # the same engine, told not to cut them


@dataclass(frozen=True)
class Column:
    """One figure of a row: what it is called, where a run holds it, and which way is better.
    `batch` is the number of sequences, 0 for what is asked once, None of the whole run.
    """

    name: str
    batch: int | None
    key: str
    digits: int
    more_is_better: bool

    def values(self, runs: Runs) -> list[float]:
        """This figure of each run that has it."""
        if self.batch is None:
            return [run[self.key] for run in runs if run.get(self.key) is not None]
        results = [each for run in runs for each in run["results"] if self.key in each]
        return [each[self.key] for each in results if each.get("batch", 0) == self.batch]

    def show(self, value: float) -> str:
        return f"{value:.{self.digits}f}"


COLUMNS = (
    Column("decode tok/s, 1 sequence", 1, "decode_tok_s", 1, True),
    Column("decode tok/s, 8 sequences", 8, "decode_tok_s", 0, True),
    Column("decode tok/s, 16 sequences", 16, "decode_tok_s", 0, True),
    Column("prefill of one prompt, s", 1, "prefill_s", 3, False),
    Column("prefill of 16 prompts, s", 16, "prefill_s", 2, False),
    Column("worst gap, s", 0, "gap_s", 2, False),
    Column("load, s", 1, "load_s", 1, False),
    Column("command to ready, s", None, "start_s", 1, False),
    Column("memory, GiB", None, "pss_gib", 2, False),
)
NAMED = {column.name: column for column in COLUMNS}
STREAM = Column("memory read by all cores, GB/s", 0, "stream_gb_s", 1, True)


def render(found: dict[str, Any], *, table_only: bool = False) -> str:
    """The whole page, or its tables alone."""
    rows: dict[tuple[str, str], Runs] = {}
    for run in quietest(found["runs"]):
        rows.setdefault((run["engine"], run["split"]), []).append(run)
    streams = rows.pop(("memory", "read"), [])
    tables = [figures(rows), "", against(rows), "", goals(rows, streams, found)]
    if table_only:
        return "\n".join(tables)
    return PAGE.format(
        conditions=conditions(found),
        figures=tables[0],
        against=tables[2],
        best=best(rows),
        goals=tables[4],
        misses=misses(rows),
        tokens=tokens(rows),
        rounds=found["rounds"],
    )


def quietest(runs: Runs) -> Runs:
    """Of the attempts at one run, the one that others disturbed least, whatever it reached."""
    attempts: dict[tuple[int, str, str], Runs] = {}
    for run in runs:
        attempts.setdefault((run["round"], run["engine"], run["split"]), []).append(run)
    return [min(each, key=lambda run: run["others_share"]) for each in attempts.values()]


def figures(rows: dict[tuple[str, str], Runs]) -> str:
    """Median (least to most) of every row and column."""
    lines = [["engine", "split", *(column.name for column in COLUMNS)]]
    for (engine, split), runs in sorted(rows.items(), key=_ours_first):
        lines.append([engine, split, *(_cell(column, runs) for column in COLUMNS)])
    return table(lines)


def _ours_first(row: tuple[tuple[str, str], Runs]) -> tuple[int, int]:
    order, splits = (OURS, RIVAL), ("TP2", "PP2")
    engine, split = row[0]
    return (
        order.index(engine) if engine in order else len(order),
        splits.index(split) if split in splits else len(splits),
    )


def _cell(column: Column, runs: Runs) -> str:
    values = column.values(runs)
    if not values:
        return "failed" if all("failed" in run for run in runs) else "-"
    low, high = column.show(min(values)), column.show(max(values))
    spread = f" ({low} to {high})" if len(values) > 1 else ""
    return column.show(statistics.median(values)) + spread


def speed(column: Column, ours: Runs, theirs: Runs) -> float | None:
    """How many times as fast we are, by medians: above 1 is ahead, whether rates or seconds."""
    mine, rival = column.values(ours), column.values(theirs)
    if not mine or not rival:
        return None
    ratio = statistics.median(mine) / statistics.median(rival)
    return ratio if column.more_is_better else 1 / ratio


def against(rows: dict[tuple[str, str], Runs]) -> str:
    """wirecut's speed over vLLM's, split by split."""
    lines = [[f"{OURS} / {RIVAL}", *(column.name for column in COLUMNS)]]
    for split in ("TP2", "PP2"):
        ours, theirs = rows.get((OURS, split), []), rows.get((RIVAL, split), [])
        ratios = [speed(column, ours, theirs) for column in COLUMNS]
        lines.append([split, *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)])
    return table(lines)


def best(rows: dict[tuple[str, str], Runs]) -> str:
    """wirecut's best row over each engine's best, column by column."""
    engines = list(dict.fromkeys(engine for engine, _ in sorted_keys(rows) if engine != OURS))
    lines = [["best split over best split of", *(column.name for column in COLUMNS)]]
    for engine in engines:
        cells = []
        for column in COLUMNS:
            mine, rival = best_row(rows, column, OURS), best_row(rows, column, engine)
            ratio = speed(column, rows[mine], rows[rival]) if mine and rival else None
            cells.append("-" if ratio is None else f"{ratio:.2f}")
        lines.append([engine, *cells])
    return table(lines)


def sorted_keys(rows: dict[tuple[str, str], Runs]) -> list[tuple[str, str]]:
    return [key for key, _ in sorted(rows.items(), key=_ours_first)]


def best_row(
    rows: dict[tuple[str, str], Runs], column: Column, engine: str
) -> tuple[str, str] | None:
    """The split with which `engine` is fastest in this column."""
    able = [key for key in rows if key[0] == engine and column.values(rows[key])]
    pick = max if column.more_is_better else min
    return pick(able, key=lambda key: statistics.median(column.values(rows[key])), default=None)


def goals(
    rows: dict[tuple[str, str], Runs],
    streams: Runs,
    found: dict[str, Any],
) -> str:
    """What was aimed at, and what was reached."""
    tp2, pp2, vllm_tp2, vllm_pp2 = (OURS, "TP2"), (OURS, "PP2"), (RIVAL, "TP2"), (RIVAL, "PP2")
    aims = [
        *((tp2, vllm_tp2, f"decode tok/s, {n}", 1.25) for n in SEQUENCES),
        *((pp2, vllm_pp2, f"decode tok/s, {n}", 1.6) for n in SEQUENCES[1:]),
        (tp2, ("llama.cpp", "2 threads"), f"decode tok/s, {SEQUENCES[0]}", 1.05),
        *(
            (tp2, each, "prefill of one prompt, s", 1.0)
            for each in sorted_keys(rows)
            if each[0] != OURS
        ),
        (tp2, (OURS, "TP2" + WHOLE_PROMPTS), "worst gap, s", 3.0),
        (tp2, vllm_tp2, "worst gap, s", 1.0),
        (tp2, vllm_tp2, "memory, GiB", 1.0),
        (pp2, (OURS, "DP2"), f"decode tok/s, {SEQUENCES[2]}", 0.85),
    ]
    lines = [["what", "of", "over", "wanted", "reached", ""]]
    for mine, rival, name, wanted in aims:
        ratio = speed(NAMED[name], rows.get(mine, []), rows.get(rival, []))
        if ratio is not None:
            verdict = "yes" if ratio >= wanted else "missed"
            lines.append(
                [name, " ".join(mine), " ".join(rival), f"{wanted:g}x", f"{ratio:.2f}x", verdict]
            )
    load = NAMED["load, s"].values(rows.get(tp2, []))
    if load:
        seconds = statistics.median(load)
        verdict = "yes" if seconds < MOST_LOAD_S else "missed"
        lines.append(
            ["load", " ".join(tp2), "-", f"under {MOST_LOAD_S:g} s", f"{seconds:.1f} s", verdict]
        )
    rates, decodes = STREAM.values(streams), NAMED[f"decode tok/s, {SEQUENCES[0]}"]
    if rates and (reached := decodes.values(rows.get(tp2, []))):
        bandwidth = statistics.median(rates)
        share = statistics.median(reached) * found["weights_gb"] / bandwidth
        lines.append(
            [
                "weights read, one sequence",
                " ".join(tp2),
                f"what all cores read, {bandwidth:.1f} GB/s",
                f"{LEAST_SHARE:.0%}",
                f"{share:.0%}",
                "yes" if share >= LEAST_SHARE else "missed",
            ]
        )
    return table(lines)


def misses(rows: dict[tuple[str, str], Runs]) -> str:
    """Where wirecut is behind the same split of vLLM, or its best split behind a peer's best."""
    pairs = [((OURS, split), (RIVAL, split), c) for split in ("TP2", "PP2") for c in COLUMNS]
    for engine in dict.fromkeys(engine for engine, _ in sorted_keys(rows) if engine != OURS):
        for column in COLUMNS:
            mine, rival = best_row(rows, column, OURS), best_row(rows, column, engine)
            if mine and rival and (mine, rival, column) not in pairs:
                pairs.append((mine, rival, column))
    lines = []
    for mine, rival, column in pairs:
        ours, theirs = rows.get(mine, []), rows.get(rival, [])
        ratio = speed(column, ours, theirs)
        if ratio is not None and ratio < 1:
            a, b = column.values(ours), column.values(theirs)
            apart = max(a) < min(b) or max(b) < min(a)
            lines.append(
                f"- {column.name}: {' '.join(mine)} is {ratio:.2f} times as fast as "
                f"{' '.join(rival)} "
                f"({column.show(statistics.median(a))} against "
                f"{column.show(statistics.median(b))}"
                f"{'' if apart else '; the ranges of the rounds overlap'})."
            )
    failed = {
        f"- {run['engine']} {run['split']} failed in a round: {run['failed']}."
        for runs in rows.values()
        for run in runs
        if "failed" in run
    }
    return "\n".join([*lines, *sorted(failed)]) or "Nowhere in this run."


def tokens(rows: dict[tuple[str, str], Runs]) -> str:
    """Whether the engines wrote the same."""
    wrote: dict[tuple[int, ...], set[str]] = {}
    for (engine, split), runs in rows.items():
        for run in runs:
            for result in run["results"][:1]:
                if "first_tokens" not in result:
                    continue
                wrote.setdefault(tuple(result["first_tokens"]), set()).add(f"{engine} {split}")
    if len(wrote) == 1:
        return (
            "Serving the first prompt alone,\n  all engines wrote the same first eight tokens, "
            "so they run the same model."
        )
    groups = "; ".join(f"{', '.join(sorted(names))}: {list(ids)}" for ids, names in wrote.items())
    return (
        "The first eight tokens for the first prompt differ (random weights put many tokens close "
        f"together, and bf16 rounds differently in each engine): {groups}."
    )


def conditions(found: dict[str, Any]) -> str:
    """Machine, versions, times and how quiet it was."""
    at, runs = found["machine"], quietest(found["runs"])
    results = [result for run in runs for result in run["results"]]
    versions = list(dict.fromkeys(v for one in results for v in one.get("versions", [])))
    others, stolen = ([run[key] for run in runs] for key in ("others_share", "stolen_share"))
    lines = [
        f"- Machine: {at['cpu']} ({at['family']}), {at['cores']} cores, "
        f"{at['threads_per_core']} thread a core, L2 {at['l2']}, L3 {at['l3']}, "
        f"{at['memory_gib']} GiB, flags {' '.join(at['flags'])}"
        f"{', a virtual machine (' + at['virtual'] + ')' if at['virtual'] else ''}; "
        f"{at['system']}, Python {at['python']}.",
        f"- When: {_utc(found['began'])} to {_utc(found['ended'])}, {found['rounds']} rounds.",
        f"- Versions: {', '.join(versions)}.",
        "- How quiet it was: other processes took "
        f"{statistics.median(others):.1%} of the cores' time in the median run and "
        f"{max(others):.1%} in the worst; the hypervisor took {statistics.median(stolen):.1%} and "
        f"{max(stolen):.1%}. A run in which others took more than {found['most_others']:.0%} was "
        f"repeated, at most twice, and the least disturbed attempt counts: {len(found['runs'])} "
        f"runs for {len(runs)}.",
        f"- wirecut's fabric: {found['fabric']} (it places layers in stages; rates do not matter "
        "to TP).",
    ]
    if found["note"]:
        lines.append(f"- {found['note']}")
    return "\n".join(lines)


def _utc(iso: str) -> str:
    return iso.replace("T", " ").replace("+00:00", " UTC")


def table(lines: list[list[str]]) -> str:
    """Markdown, with columns as wide as they need be."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
