"""The lab: what is asked, who won and where lines cross, its page and picture, and a small run."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from fabrics import fabric
from wirecut.bench import lab as lab_module
from wirecut.bench.lab import LAYOUTS, LabWire, experiment, parse_users, parse_wires
from wirecut.bench.lab_facts import Cell, Lab, Spread, Tried, measured_rate, predicted_rate
from wirecut.bench.lab_page import crossing_words, lab_page, score, show_bits
from wirecut.bench.model import write_random_model
from wirecut.bench.picture import draw
from wirecut.bench.scratch import folder_that_vanishes
from wirecut.bench.testbed import why_no_bed
from wirecut.cli import lab as lab_command
from wirecut.cli.app import app
from wirecut.errors import MissingExtra, UsageError
from wirecut.explain.page import Grid, Paragraph, show
from wirecut.spec.checkpoint import check_checkpoint
from wirecut.spec.hf import read_config

WIRES = (
    Tried("shm", "shm", None, 80e9, 5e-6),
    Tried("1gbit", "tcp", 1e9, 1e9, 100e-6),
    Tried("100mbit", "tcp", 1e8, 1e8, 100e-6),
)
RATES = {
    "shm": {"tp2": 100, "dp2": 60},
    "1gbit": {"tp2": 80, "dp2": 60},
    "100mbit": {"tp2": 40, "dp2": 60},
}


def cell(wire: str, layout: str, predicted: float, measured: float, users: int = 1) -> Cell:
    return Cell(
        wire,
        layout,
        users,
        predicted_tpot_s=1 / predicted,
        predicted_tokens_per_s=predicted,
        predicted_interval=(0.9 * predicted, 1.1 * predicted),
        tpot_s=Spread(1 / measured, 0.9 / measured, 1.2 / measured),
        tokens_per_s=Spread(measured, 0.8 * measured, 1.1 * measured),
    )


def made_lab(**measured: dict[str, float]) -> Lab:
    """RATES predicted, and measured unless another rate is given by wire (`w100mbit`: its name
    after a w) and layout.
    """
    other = {name.removeprefix("w"): rates for name, rates in measured.items()}
    cells = [
        cell(wire, layout, rate, other.get(wire, {}).get(layout, rate))
        for wire, rates in RATES.items()
        for layout, rate in rates.items()
    ]
    return Lab("tiny", WIRES, tuple(cells))


def test_wires_and_users_are_read() -> None:
    assert parse_wires("shm, 1Gbit,200mbit,2.5gbit,loopback,shm") == (
        LabWire("shm"),
        LabWire("1gbit", 1e9),
        LabWire("200mbit", 200e6),
        LabWire("2.5gbit", 2.5e9),
        LabWire("loopback"),
    )
    assert parse_users("8, 1,8") == (1, 8)


@pytest.mark.parametrize("text", ["", "fast", "100", "1gbit,", "-1gbit", "1e9bit", "gbit"])
def test_wires_that_are_none_are_named(text: str) -> None:
    with pytest.raises(UsageError, match=r"--wires has '.*expected shm, loopback, or a speed"):
        parse_wires(text)


@pytest.mark.parametrize("text", ["", "0", "1,", "x", "-1", "65", "9" * 30, "1.5", "²"])
def test_users_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--users is"):
        parse_users(text)


def test_a_race_that_was_called_right_loses_nothing() -> None:
    races = list(made_lab().races())
    assert [(race.wire, race.predicted, race.measured, race.lost) for race in races] == [
        ("shm", "tp2", "tp2", 0),
        ("1gbit", "tp2", "tp2", 0),
        ("100mbit", "dp2", "dp2", 0),
    ]
    assert all(race.agree for race in races)


def test_another_winner_agrees_only_within_a_tie() -> None:
    near = list(made_lab(w100mbit={"tp2": 65}).races())[2]
    assert (near.predicted, near.measured) == ("dp2", "tp2")
    assert near.lost == pytest.approx(65 / 60 - 1)
    assert near.agree
    far = list(made_lab(w100mbit={"tp2": 70}).races())[2]
    assert not far.agree


def test_lines_cross_where_they_are_equal() -> None:
    (crossing,) = made_lab().crossings(predicted_rate)
    assert (crossing.above, crossing.below) == ("tp2", "dp2")
    assert (crossing.fast, crossing.slow) == ("1gbit", "100mbit")
    at = crossing.share
    assert 80 + (40 - 80) * at == pytest.approx(60)
    assert crossing.bits_per_s == pytest.approx(1e9 * 0.1**at)
    (crossing,) = made_lab(w1gbit={"tp2": 50.0}).crossings(measured_rate)
    assert (crossing.fast, crossing.slow) == ("shm", "1gbit")
    assert crossing.bits_per_s is None  # shared memory is not a faster network


def test_the_page_says_who_wins_where(capsys: pytest.CaptureFixture[str]) -> None:
    lab = made_lab(w100mbit={"tp2": 90.0})
    assert list(crossing_words(lab)) == [
        "1 user, predicted: tp2 over shm and 1gbit, dp2 over 100mbit; "
        "tp2 and dp2 cross at about 316 Mbit/s.",
        "1 user, measured: tp2 over every wire.",
    ]
    assert score(lab).startswith(
        "The predicted layout won, or came within 10% of the winner, in 2 of 3"
    )
    assert score(lab).endswith("in 5 of 6 runs.")
    page = lab_page(replace(lab, left_out=("pp2 over shm: one layer only",)))
    assert Paragraph("Left out: pp2 over shm: one layer only") in page
    strong = [sorted(block.strong) for block in page if isinstance(block, Grid) and block.strong]
    assert strong == [[0, 2, 4]]  # the fastest as measured
    show(page)
    printed = capsys.readouterr().out
    assert "NO: 50% behind" in printed
    assert "…" not in printed  # nothing is cut off
    assert max(map(len, printed.splitlines())) <= 100


def test_bits_print_as_people_say_them() -> None:
    assert [show_bits(b) for b in (95.6e6, 1e9, 111.4e9)] == [
        "95.6 Mbit/s",
        "1 Gbit/s",
        "111 Gbit/s",
    ]


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_picture_is_drawn(tmp_path: Path, ending: str) -> None:
    lab = made_lab()
    both = replace(lab, cells=(*lab.cells, *(replace(one, users=8) for one in lab.cells)))
    draw(both, tmp_path / f"lab.{ending}")
    drawn = (tmp_path / f"lab.{ending}").read_bytes()
    assert len(drawn) > 5000
    if ending == "svg":
        for words in (
            "1 user",
            "8 users",
            "tp2 predicted",
            "dp2 measured",
            "316 Mbit/s",
            "100mbit",
        ):
            assert f"<!-- {words}".encode() in drawn or words.encode() in drawn


def test_a_random_model_is_a_checkpoint(tmp_path: Path) -> None:
    sizes = {"layers": 2, "hidden": 128, "intermediate": 256, "kv_heads": 2, "vocab": 320}
    write_random_model(tmp_path, **sizes)
    spec = read_config(tmp_path / "config.json")
    assert (spec.num_layers, spec.hidden, spec.vocab, spec.dtype) == (2, 128, 320, "bf16")
    assert len(check_checkpoint(tmp_path, spec).tensors) == len(spec.tensors)


def test_the_folder_of_a_killed_process_vanishes() -> None:
    code = (
        "import time\nfrom wirecut.bench.scratch import folder_that_vanishes\n"
        "with folder_that_vanishes() as folder:\n"
        "    (folder / 'weights').write_text('x')\n"
        "    print(folder, flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    assert (folder / "weights").exists()
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 5
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not folder.exists()
    with pytest.raises(KeyError), folder_that_vanishes() as folder:
        raise KeyError
    assert not folder.exists()


def run_cli(*words: str) -> tuple[int, str]:
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, ["lab", *words])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--wires", "string"], "expected shm, loopback, or a speed"),
        (["--users", "many"], "expected whole numbers from 1 to 64"),
        (["--out", "lab.txt"], "ends in .png, .svg, .pdf"),
        (["--out", "nowhere/lab.png"], "there is no folder"),
        (["--wires", "shm", "--model", "no/such/model"], "no/such/model"),
    ],
)
def test_wrong_use_is_told_before_any_work(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = run_cli(*words)
    assert (code, said in output) == (2, True), output
    assert not list(tmp_path.iterdir())


def test_without_root_the_lab_takes_its_own_wires(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert lab_command._default_wires() == "shm,loopback"
    assert "takes root" in capsys.readouterr().err
    code, output = run_cli("--wires", "100mbit")
    assert code == 2
    assert "takes root" in output
    assert "--wires shm,loopback" in output


def test_missing_matplotlib_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lab_command, "find_spec", lambda name: None if name == "matplotlib" else 1)
    with pytest.raises(MissingExtra, match=r"drawing the picture needs the extra `engine`"):
        lab_command._check(tmp_path / "lab.png")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab") / "tiny"
    folder.mkdir()
    return write_random_model(folder, layers=2, hidden=128, intermediate=256, kv_heads=2, vocab=320)


def test_an_experiment_runs_over_every_wire_for_all_users(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With made-up prices: what is predicted here is wrong, and every cell is there."""
    wires = ["loopback", "shm" if why_no_bed() else "1gbit"]
    here = fabric(2, kinds=("shm", "tcp"), launch_s=1e-5)

    def probe(num_ranks: int | None = None, *, hosts: tuple = (), progress: object) -> object:
        if not hosts:
            assert num_ranks == 2
            return here
        devices = tuple(
            replace(d, host=host.name) for d, host in zip(here.devices, hosts, strict=True)
        )
        return replace(here.only("tcp"), devices=devices, islands=())

    monkeypatch.setattr(lab_module, "probe", probe)
    monkeypatch.setattr(lab_module, "LAYOUTS", LAYOUTS[:1])
    told: list[tuple[int, int]] = []
    lab = experiment(
        parse_wires(",".join(wires)),
        users=(1, 3),
        folder=tiny,
        progress=lambda done, of, what: told.append((done, of)),
    )
    assert [(c.wire, c.layout, c.users) for c in lab.cells] == [
        (wire, "tp2", users) for wire in wires for users in (1, 3)
    ]
    assert all(c.tpot_s.low <= c.tpot_s.median <= c.tpot_s.high < 1 for c in lab.cells)
    assert told == sorted(told)
    assert all(done < of for done, of in told)
    again = msgspec.json.decode(msgspec.json.encode(lab))
    assert again["cells"][0]["tokens_per_s"]["median"] > 0
    draw(lab, tmp_path / "lab.png")


def test_a_layout_that_the_model_does_not_allow_is_left_out_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One head: no TP of two. One layer: no PP of two."""
    write_random_model(tmp_path, layers=1, hidden=64, intermediate=256, kv_heads=1, vocab=320)
    monkeypatch.setattr(lab_module, "probe", lambda *_, **__: fabric(2))
    monkeypatch.setattr(lab_module, "LAYOUTS", LAYOUTS[:2])
    with pytest.raises(
        UsageError, match=r"tp2 over shm: tp 2 does not divide 1 query.*pp2 over shm: pp 2"
    ):
        experiment(parse_wires("shm"), users=(1,), folder=tmp_path)
