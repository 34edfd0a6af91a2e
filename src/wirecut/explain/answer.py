"""The words of a plan: the choice, the ranking, what decided, what was rejected, and where it
flips.

    show(answer(load_plan(Path("plan.json"))))

Reads plan files only, so that `wirecut plan` and `wirecut explain` cannot disagree. Computes
nothing of its own.
"""

import re
from dataclasses import replace
from pathlib import PurePath

from wirecut.cost.terms import Estimate, Rejected
from wirecut.errors import PlanError
from wirecut.explain.budget import Line, biggest, compare, doubt
from wirecut.explain.page import Block, Grid, Heading, Note, Paragraph
from wirecut.explain.words import (
    devices_in_words,
    layout_in_words,
    listed,
    numbers,
    percent,
    tokens_per_s,
    wire_name,
    within,
)
from wirecut.layout.layout import parse_layout
from wirecut.layout.plan import PlanFile
from wirecut.planner.contest import TIE, meets_targets
from wirecut.planner.flips import Flip
from wirecut.planner.plan import Ranking
from wirecut.planner.plan_file import ranking_of
from wirecut.units import show_bytes, show_rate, show_seconds

SHOWN_LAYOUTS = 8
SHOWN_REASONS = 6
SHOWN_TERMS = 2  # on each side of a sentence


def answer(plan: PlanFile) -> list[Block]:
    """The whole answer. Raises PlanError when the plan's estimates are damaged."""
    ranking = ranking_of(plan)
    blocks = [*_head(plan, ranking), *_ranking(plan, ranking)]
    if len(ranking.ranked) > 1:
        title = f"Why {ranking.chosen.layout} and not {ranking.ranked[1].layout}"
        blocks += [Heading(title), *_duel(plan, ranking.chosen, ranking.ranked[1])]
    return [*blocks, *_rejections(ranking), *_flips(plan, ranking)]


def why_not_answer(plan: PlanFile, name: str) -> list[Block]:
    """Why a plan did not take the layout `name`. Raises PlanError when it was not considered,
    LayoutError if unreadable.
    """
    ranking, layout = ranking_of(plan), str(parse_layout(name))
    heading = Heading(f"Why not {layout}")
    if layout == ranking.chosen.layout:
        return [heading, Paragraph(f"It is the choice: {layout_in_words(ranking.chosen)}.")]
    for rejected in ranking.rejected:
        if rejected.layout == layout:
            return [heading, Paragraph(f"It does not work: {rejected.reason}.")]
    for place, estimate in enumerate(ranking.ranked, start=1):
        if estimate.layout == layout:
            where = f"It works, and ranks {place} of {len(ranking.ranked)}"
            where = f"{where}: {layout_in_words(estimate)}."
            return [heading, Paragraph(where), *_duel(plan, ranking.chosen, estimate)]
    asked, devices = parse_layout(layout), len(plan.fabric.devices)
    if asked.world_size > devices:
        why = f"It needs {asked.world_size} devices, the fabric has {devices}."
        return [heading, Paragraph(why)]
    replica = str(replace(asked, dp=1))
    for rejected in ranking.rejected:
        if rejected.layout == replica:
            return [
                heading,
                Paragraph(f"One replica, {replica}, does not work: {rejected.reason}."),
            ]
    raise PlanError(f"the plan did not consider {layout}; it ranks {listed(_names(ranking))}")


def _names(ranking: Ranking) -> list[str]:
    return [estimate.layout for estimate in ranking.ranked]


def _head(plan: PlanFile, ranking: Ranking) -> list[Block]:
    chosen, blocks = ranking.chosen, list[Block]()
    if any(term.source == "assumed" for one in ranking.ranked for term in one.terms):
        blocks.append(
            Note("Numbers are assumed, not measured: `wirecut probe` measures this machine.")
        )
    blocks += _warnings(plan, chosen)
    name = PurePath(plan.model).name if plan.model.startswith("/") else plan.model
    blocks.append(Paragraph(f"{name} in {plan.dtype}: {plan.traffic.describe()}, for {plan.goal}"))
    blocks.append(Paragraph(devices_in_words(plan.fabric)))
    memory, plural = chosen.memory, "s" if chosen.devices_used > 1 else ""
    used = memory.weights_bytes + memory.kv_bytes + memory.activation_bytes
    low, high = chosen.interval["output_tokens_per_s"]
    rows = [
        ("first token", show_seconds(chosen.ttft_s), within(chosen.interval["ttft_s"])),
        ("each token after", show_seconds(chosen.tpot_s), within(chosen.interval["tpot_s"])),
        (
            "output",
            f"{tokens_per_s(chosen.output_tokens_per_s)} tok/s",
            f"{tokens_per_s(low)} to {tokens_per_s(high)} tok/s",
        ),
        (
            "memory",
            show_bytes(used),
            f"of {show_bytes(memory.capacity_bytes)}, fullest device",
        ),
    ]
    where = f"on device{plural} {numbers(chosen.placement)}"
    return [
        *blocks,
        Heading(f"Run it as {chosen.layout}: {layout_in_words(chosen)}, {where}."),
        Grid(("", ">", ""), rows),
    ]


def _warnings(plan: PlanFile, chosen: Estimate) -> list[Block]:
    """What comes before the choice: a target that nothing meets, a queue that grows."""
    blocks: list[Block] = []
    if not meets_targets(chosen.ttft_s, chosen.tpot_s, plan.traffic):
        blocks.append(Note(f"No layout meets {_targets(plan)}: {chosen.layout} comes nearest."))
    asked = plan.traffic.rate
    if asked is not None and chosen.requests_per_s < asked * (1 - TIE):
        most = f"{chosen.requests_per_s:.3g} requests/s"
        blocks.append(Note(f"Cannot keep up: {asked:g} requests/s come, {most} are answered."))
    return blocks


def _ranking(plan: PlanFile, ranking: Ranking) -> list[Block]:
    outputs, has_targets = plan.traffic.output_tokens, bool(_targets(plan))
    rows: list[tuple[str, ...]] = []
    for estimate in ranking.ranked[:SHOWN_LAYOUTS]:
        name, share = biggest(estimate, outputs)
        memory = estimate.memory
        used = memory.weights_bytes + memory.kv_bytes + memory.activation_bytes
        met = meets_targets(estimate.ttft_s, estimate.tpot_s, plan.traffic)
        rows.append(
            (
                estimate.layout,
                str(estimate.devices_used),
                show_seconds(estimate.ttft_s),
                show_seconds(estimate.tpot_s),
                tokens_per_s(estimate.output_tokens_per_s),
                show_bytes(used),
                *((("met" if met else "missed"),) if has_targets else ()),
                f"{name} {share:.0%}",
            )
        )
    columns = ("layout", ">devices", ">TTFT", ">TPOT", ">tok/s", ">memory")
    title = f"Ranking for {plan.goal}" + (f", within {_targets(plan)}" if has_targets else "")
    target = ("target",) if has_targets else ()
    blocks: list[Block] = [
        Heading(title),
        Grid((*columns, *target, "most of a request goes to"), rows, frozenset({0})),
    ]
    more = len(ranking.ranked) - SHOWN_LAYOUTS
    if more > 0:
        blocks.append(Paragraph(f"and {more} more that work"))
    return blocks


def _targets(plan: PlanFile) -> str:
    traffic = plan.traffic
    limits = (("TTFT", traffic.ttft_ms), ("TPOT", traffic.tpot_ms))
    return ", ".join(f"{name} {limit:g} ms" for name, limit in limits if limit is not None)


def _duel(plan: PlanFile, ours: Estimate, theirs: Estimate) -> list[Block]:
    """Both term by term over one request, then in words what decided and how sure that is."""
    outputs = plan.traffic.output_tokens
    lines = compare(ours, theirs, outputs)
    shown = [line for line in lines if line.ours or line.theirs]
    totals = sum(line.ours for line in lines), sum(line.theirs for line in lines)
    rows = [(one.name, *_triple(one.ours, one.theirs)) for one in shown]
    rows.append(("one request", *_triple(*totals)))
    grid = Grid(
        ("", f">{ours.layout}", f">{theirs.layout}", ">difference", ""),
        [(*row, "") for row in rows],
        frozenset({len(rows) - 1}),
    )
    formula = f"One request is TTFT + {outputs - 1} x TPOT:"
    verdict = _verdict(plan, ours, theirs, lines)
    return [Paragraph(formula), grid, Paragraph(verdict)]


def _triple(ours: float, theirs: float) -> tuple[str, str, str]:
    difference = theirs - ours
    sign = "+" if difference > 0 else ""
    ours_text, theirs_text = (show_seconds(one) if one else "-" for one in (ours, theirs))
    return ours_text, theirs_text, sign + show_seconds(difference)


def _verdict(plan: PlanFile, ours: Estimate, theirs: Estimate, lines: list[Line]) -> str:
    met = [meets_targets(one.ttft_s, one.tpot_s, plan.traffic) for one in (ours, theirs)]
    if met == [True, False]:
        return f"{ours.layout} meets the target ({_targets(plan)}), {theirs.layout} does not."
    rates = ours.output_tokens_per_s, theirs.output_tokens_per_s
    gain = sum(line.difference for line in lines)
    if plan.goal == "throughput" and abs(rates[0] - rates[1]) <= TIE * rates[0]:
        same = f"Both give {tokens_per_s(rates[0])} tok/s; {ours.layout}"
        if ours.devices_used < theirs.devices_used:
            return (
                f"{same} takes {ours.devices_used} devices, {theirs.layout} {theirs.devices_used}."
            )
        return f"{same} answers {show_seconds(gain)} sooner."
    if plan.goal == "throughput":
        by = f"{percent(rates[0] / rates[1] - 1)} more tokens per second"
    else:
        total = sum(line.theirs for line in lines)
        by = f"an answer {percent(gain / total)} sooner" if total else "the same answer"
    sentence = f"{ours.layout} gives {by} than {theirs.layout}: {_decided(lines)}."
    wide = doubt(lines)
    sure = "too close to call, so run both" if abs(gain) <= wide else "the choice stands"
    between = f"The {show_seconds(abs(gain))} between them are known to {show_seconds(wide)}"
    return f"{sentence} {between}: {sure}."


def _decided(lines: list[Line]) -> str:
    """'it saves 62.4 ms of weights, and pays 22.5 ms of all-reduce'."""
    saved = [line for line in lines if line.difference > 0][:SHOWN_TERMS]
    paid = [line for line in lines if line.difference < 0][:SHOWN_TERMS]
    parts: list[str] = []
    for verb, side in (("saves", saved), ("pays", paid)):
        if side:
            terms = [f"{show_seconds(abs(one.difference))} of {one.name}" for one in side]
            parts.append(f"{verb} {listed(terms)}")
    return "it " + ", and ".join(parts) if parts else "they take the same time"


def _rejections(ranking: Ranking) -> list[Block]:
    """Layouts that do not work, those with the same reason (but for its numbers) together."""
    if not ranking.rejected:
        return []
    alike: dict[str, list[Rejected]] = {}
    for rejected in ranking.rejected:
        alike.setdefault(re.sub(r"\d[\d.]*", "#", rejected.reason), []).append(rejected)
    rows: list[tuple[str, ...]] = []
    for group in list(alike.values())[:SHOWN_REASONS]:
        others = [one.layout for one in group[1:]]
        few = ", ".join(others[:4]) + (f" and {len(others) - 4} more" if len(others) > 4 else "")
        rows.append((group[0].layout, group[0].reason + (f"  (so too {few})" if few else "")))
    blocks: list[Block] = [
        Heading(f"Does not work: {len(ranking.rejected)} layouts"),
        Grid(("", ""), rows),
    ]
    if len(alike) > SHOWN_REASONS:
        blocks.append(Paragraph(f"and {len(alike) - SHOWN_REASONS} other reasons"))
    return blocks


def _flips(plan: PlanFile, ranking: Ranking) -> list[Block]:
    rows = [row for flip in ranking.flips if (row := _flip_in_words(plan, ranking, flip))]
    heading = Heading("Where it flips")
    if not rows:
        return [heading, Paragraph("Nowhere: it wins on wires of any speed, at any concurrency.")]
    return [heading, Grid(("", ""), rows)]


def _flip_in_words(plan: PlanFile, ranking: Ranking, flip: Flip) -> tuple[str, ...]:
    chosen = ranking.chosen.layout
    if flip.what == "wire" and flip.wire is not None:
        word = "too" if flip.to == chosen else "instead"
        return f"over {wire_name(flip.wire)} only", f"{flip.to} {word}"
    if not isinstance(flip.threshold, float | int):
        return ()
    if flip.what == "concurrency":
        now = plan.traffic.concurrency or 1
        more = "or more" if flip.threshold > now else "or fewer"
        return f"at {flip.threshold:.0f} {more} at once (now {now})", flip.to
    if flip.factor is None or flip.latency_s is None or flip.wire is None:
        return ()
    times = f"{flip.factor:.3g}x" if flip.factor > 1 else f"1/{1 / flip.factor:.3g}"
    side = "faster than" if flip.factor > 1 else "slower than"
    wire = f"{show_rate(flip.threshold)} and {show_seconds(flip.latency_s)}"
    return f"on wires {side} {times} of these ({wire_name(flip.wire)}: {wire})", flip.to
