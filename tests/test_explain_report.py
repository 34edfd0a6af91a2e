"""The page: it holds every part, fetches nothing, cannot be broken by a name, and its map is the
contest's.
"""

from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import combinations

import pytest

from explained import GIB, PP2, TP1, TP2, TRAFFIC, estimate, plan_of
from fabrics import MADE, big_model, fabric
from wirecut.cost.estimate import Candidate, consider
from wirecut.cost.replica import Pricing
from wirecut.cost.terms import Memory, Rejected
from wirecut.explain.budget import KINDS, by_kind
from wirecut.explain.fabric_tree import Node, host_tree, hosts_tree, joined
from wirecut.explain.html import VOID, Html, el, join
from wirecut.explain.report import report
from wirecut.fabric.fabric import Device, Fabric, Link
from wirecut.fabric.islands import find_islands
from wirecut.planner.contest import Contest
from wirecut.planner.flips import Flip
from wirecut.planner.map import CONCURRENCIES, SPEEDS, WinnerMap, map_of, winner_map
from wirecut.planner.plan import Ranking, plan
from wirecut.spec.traffic import Traffic

FLIP = Flip("concurrency", 28, "requests", "pp2")
CELLS = (("tp2",) * 12 + ("pp2",) * 13, ("tp2",) * 25)
WINNERS = WinnerMap(SPEEDS, (1.0, 8.0), "concurrency", CELLS, (1, 12))


@dataclass
class Page(HTMLParser):
    """What a browser would see: attributes of every element, text, and whether tags balance."""

    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data

    def having(self, attribute: str) -> list[dict[str, str]]:
        return [found for _, found in self.elements if attribute in found]


def read(text: str) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    return page


def whole_page() -> str:
    bad = Rejected("tp3", "tp 3 does not divide 4 heads")
    return report(plan_of(TP2, PP2, TP1, rejected=[bad], flips=[FLIP]), WINNERS)


def test_the_page_fetches_nothing():
    text = whole_page()
    page = read(text)
    names = Counter(tag for tag, _ in page.elements)
    assert not names.keys() & {"link", "img", "iframe", "object", "embed", "base", "form", "a"}
    assert not page.having("src")
    assert not page.having("href")
    for outside in ("http:", "https:", "//", "url(", "@import", "fetch(", "XMLHttp", "import("):
        assert outside not in text
    assert "default-src 'none'" in page.having("http-equiv")[0]["content"]
    assert "prefers-color-scheme: dark" in text


def test_every_layout_has_its_bar_and_the_bars_are_the_terms():
    page = read(whole_page())
    bars = [found["data-layout"] for found in page.having("data-layout") if "class" in found]
    assert [name for name in bars if name in ("tp2", "pp2", "tp1")][:3] == ["tp2", "pp2", "tp1"]
    drawn = [
        (found["data-kind"], float(found["data-seconds"])) for found in page.having("data-kind")
    ]
    outputs = TRAFFIC.output_tokens
    told = [pair for one in (TP2, PP2, TP1) for pair in by_kind(one, outputs).items()]
    assert [kind for kind, _ in drawn] == [kind for kind, _ in told]
    assert [one for _, one in drawn] == pytest.approx([one for _, one in told])
    widths = [float(found["style"].split(":")[1].rstrip("%")) for found in page.having("data-kind")]
    assert sum(widths[-3:]) == pytest.approx(100, abs=0.01)  # the longest request fills its track


def test_every_kind_of_time_and_of_wire_has_a_colour():
    text = whole_page()
    for kind in KINDS:
        assert f".k-{kind} {{" in text
    for family in ("link", "pcie", "network", "shared", "other"):
        assert f".w-{family}" in text


def test_every_part_is_said():
    text = read(whole_page()).text
    for part in (
        "Run it as tp2",
        "the choice stands",
        "less time per request",
        "Why tp2 and not pp2",
        "at 28 users or more at once",
        "does not divide",
        "all-reduce work",
        "you are here",
        "8 x core",
    ):
        assert part in text


def test_each_rank_is_drawn_on_its_device():
    placed = estimate("tp2pp2", {"memory": 1e-2}, placement=(5, 4, 1, 0))
    page = read(report(plan_of(placed, TP1), None, "No map."))
    drawn = {int(one["data-rank"]): int(one["data-device"]) for one in page.having("data-rank")}
    assert drawn == {0: 5, 1: 4, 2: 1, 3: 0}
    assert page.text.count("unused") == 1 + 4  # in the legend, and a device each
    assert "No map." in page.text


def test_each_rank_is_drawn_with_the_experts_that_it_holds():
    placed = estimate("tp2dp2ep2", {"memory": 1e-2})
    page = read(report(plan_of(placed, TP1), None, "No map."))
    tips = {int(one["data-rank"]): one["data-tip"] for one in page.having("data-rank")}
    experts = {rank: tip.partition("ep")[2][:1] for rank, tip in tips.items()}
    assert experts == {0: "0", 1: "0", 2: "1", 3: "1"}  # two ranks share each half


def test_names_cannot_break_the_page():
    evil = '<script>alert("x")</script>&\'"'
    wires = fabric(2)
    device = Device(0, evil, "cpu-core", evil, GIB, 1e9, {"bf16": 1e12}, 0.0, "measured")
    other = Device(1, evil, "cpu-core", evil, GIB, 1e9, {"bf16": 1e12}, 0.0, "measured")
    wires = Fabric((device, other), wires.links, wires.islands, MADE)
    text = report(plan_of(TP2, TP1, wires=wires, model=evil), WINNERS)
    page = read(text)
    assert Counter(tag for tag, _ in page.elements)["script"] == 1
    assert evil in page.text
    assert any(evil in one["data-tip"] for one in page.having("data-tip"))


def test_only_html_is_not_escaped():
    assert el("b", "<", Html("<br>"), title='"') == '<b title="&quot;">&lt;<br></b>'
    assert join("&", el("i")) == "&amp;<i></i>"
    assert el("i", class_="a", data_x=1.5, style=None) == '<i class="a" data-x="1.5"></i>'


def test_the_map_is_drawn_cell_by_cell():
    page = read(report(plan_of(TP2, PP2), WINNERS))
    cells = [
        (one["data-layout"], one.get("class"))
        for one in page.having("data-layout")
        if "style" in one
    ]
    assert [name for name, _ in cells] == [*CELLS[1], *CELLS[0]]  # the highest load on top
    assert [i for i, (_, mark) in enumerate(cells) if mark == "here"] == [12]
    assert "tp2 wins with 1 user at once" in " ".join(
        one["data-tip"] for one in page.having("data-tip")
    )
    colours = {
        one["data-layout"]: one["style"] for one in page.having("data-layout") if "style" in one
    }
    assert len(set(colours.values())) == 2


def boxes(num_hosts: int, *, pairs: bool) -> Fabric:
    """Hosts of four, in NVLink pairs or not, over InfiniBand."""

    def wire(a: int, b: int) -> Link:
        if a // 4 != b // 4:
            return Link(a, b, "ib", 20e-6, 5e9, "datasheet")
        if pairs and a // 2 == b // 2:
            return Link(a, b, "nvlink", 5e-6, 100e9, "datasheet")
        return Link(a, b, "pcie4", 10e-6, 22e9, "datasheet")

    count = 4 * num_hosts
    links = tuple(wire(a, b) for a, b in combinations(range(count), 2))
    devices = tuple(
        Device(i, f"node{i // 4}", "gpu", "L40S", GIB, 1e12, {"bf16": 1e14}, 3e-6, "datasheet")
        for i in range(count)
    )
    return Fabric(devices, links, find_islands(count, links), MADE)


def test_islands_become_a_tree_with_its_wires():
    wires = boxes(2, pairs=True)
    tree = host_tree(wires, "node1")
    assert [child.devices for child in tree.children] == [(4, 5), (6, 7)]
    assert tree.children[0].children == (Node((4,)), Node((5,)))
    assert [(one.kind, one.bytes_per_s) for one in joined(wires, tree)] == [("pcie4", 22e9)]
    assert [one.kind for one in joined(wires, tree.children[0])] == ["nvlink"]
    both = hosts_tree(wires, wires.hosts)
    assert [child.name for child in both.children] == ["node0", "node1"]
    assert [one.kind for one in joined(wires, both)] == ["ib"]
    assert joined(fabric(1), Node((0,))) == []


def test_many_hosts_are_counted_and_those_with_ranks_come_first():
    wires = boxes(12, pairs=False)
    far = estimate("tp4", {"memory": 1e-2}, placement=(44, 45, 46, 47))
    page = read(report(plan_of(far, wires=wires), None))
    assert len(page.having("data-rank")) == 4
    assert "and 4 more hosts, none of them with ranks" in page.text
    assert "InfiniBand 5.00 GB/s" in page.text


def test_memory_is_drawn_to_scale():
    memory = Memory(24 * GIB, 6 * GIB, 3 * GIB, 48 * GIB, 9000, 3 * GIB)
    page = read(report(plan_of(estimate("tp1", {"memory": 1e-2}, memory=memory)), None))
    widths = {
        one["class"]: one["style"] for one in page.having("class") if one["class"].startswith("m-")
    }
    assert widths["m-weights"] == "width:50.000%"
    assert widths["m-kv"] == "width:12.500%"


def test_the_map_is_the_contest_held_everywhere():
    pricing = Pricing(big_model(), fabric(4, latency_s=200e-6), dtype="bf16")
    traffic = Traffic(64, 16, concurrency=3)
    ranking = plan(pricing, traffic, goal="latency")
    winners = map_of(ranking.ranked, pricing, traffic, goal="latency")
    assert winners is not None
    assert winners.loads == tuple(sorted({*CONCURRENCIES, 3.0}))
    row, column = winners.here
    assert (winners.loads[row], winners.speeds[column]) == (3.0, 1.0)
    assert winners.cells[row][column] == ranking.chosen.layout
    for i, load in enumerate(winners.loads):
        for j in range(0, len(SPEEDS), 3):
            cell = plan_winner(pricing, ranking, Traffic(64, 16, concurrency=int(load)), SPEEDS[j])
            assert winners.cells[i][j] == cell
    assert len({name for row in winners.cells for name in row}) > 1


def plan_winner(pricing: Pricing, ranking: Ranking, traffic: Traffic, speed: float) -> str:
    outcomes = [consider(pricing, one.cut, traffic) for one in ranking.ranked]
    field = tuple(one for one in outcomes if isinstance(one, Candidate))
    return str(Contest(field, "latency").winner(traffic, speed=speed).cut.layout)


def test_a_load_too_small_for_all_replicas_is_won_by_fewer_of_them():
    pricing = Pricing(big_model(), fabric(8), dtype="bf16")
    traffic = Traffic(64, 16, concurrency=256)
    ranking = plan(pricing, traffic)
    most = [one for one in ranking.ranked if one.layout == "dp8"]
    winners = map_of(most, pricing, traffic, goal="throughput")
    assert winners is not None
    column = winners.here[1]
    assert [winners.cells[row][column] for row in (0, 1, 2, 8)] == ["tp1", "dp2", "dp4", "dp8"]


def test_a_rate_has_a_map_round_itself_and_a_finite_run_has_none():
    pricing = Pricing(big_model(), fabric(2), dtype="bf16")
    traffic = Traffic(64, 16, rate=3.0)
    ranking = plan(pricing, traffic)
    winners = map_of(ranking.ranked, pricing, traffic, goal="throughput")
    assert winners is not None
    assert winners.by == "rate"
    assert winners.loads[winners.here[0]] == 3.0
    assert winners.loads[0] < 3.0 < winners.loads[-1]
    contest = Contest((), "latency")
    assert winner_map(contest, Traffic(64, 16, num_requests=10)) is None
