"""`wirecut generate` as a user runs it: its JSON, its seeds, its files, and what each rank read."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from models import write_model
from wirecut.engine.engine import Engine
from wirecut.engine.prompt import Answer, Prompt
from wirecut.engine.text import Stream, Text, Writer
from wirecut.errors import LayoutError, ModelError, RankFailed, UsageError
from wirecut.fabric.discover import assumed_fabric
from wirecut.fabric.fabric import save_fabric
from wirecut.layout.layout import Layout
from wirecut.layout.plan import Cut, Limits
from wirecut.layout.shards import rank_bytes
from wirecut.sched.sampling import Sampling
from wirecut.spec.hf import read_config

WIRECUT = str(Path(sys.executable).with_name("wirecut"))


def wirecut(*words: object) -> str:
    done = subprocess.run(
        [WIRECUT, *map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fabrics") / "four.json"
    save_fabric(assumed_fabric(4), path)
    return path


def generate(model: Path, fabric: Path, *words: object) -> dict[str, Any]:
    return json.loads(wirecut("generate", model, "--fabric", fabric, "--json", *words))


def test_logits_longer_than_a_small_budget_of_hidden_states(tmp_path: Path, four: Path) -> None:
    model = write_model(tmp_path / "model", hidden=32, layers=1, vocab=100_003)
    told = generate(model, four, "--prompt", "hello", "--max-tokens", 3, "--layout", "tp2")
    assert len(told["token_ids"]) == 3


def test_text_is_streamed_in_whole_characters(checkpoint: Path) -> None:
    text, written = Text(checkpoint), "wörld 日本 😀, a b"
    stream = Stream(text)
    pieces = [stream.add(token) for token in text.encode(written)]
    assert "".join(pieces) == written
    assert [piece for piece in pieces if piece] == list(written)


def test_json_has_the_contract_and_counts_what_the_formula_says(
    checkpoint: Path, four: Path
) -> None:
    told = generate(checkpoint, four, "--prompt", "hello", "--max-tokens", 9, "--layout", "tp2pp2")
    assert told["layout"] == "tp2pp2"
    assert len(told["prompt_token_ids"]) == 5
    assert len(told["token_ids"]) == 9
    assert told["load_s"] > 0
    assert 0 < told["ttft_s"] < 10
    assert 0 < told["tpot_s"] < 10
    layers, hidden, vocab, forwards, tokens = 4, 64, 320, 9, 5 + 8
    assert told["comm"] == {
        "tp": {
            "calls": (2 * layers + 1) * forwards + forwards,
            "bytes": (2 * layers + 1) * tokens * hidden * 2 + forwards * vocab * 2,
        },
        "pp": {"calls": forwards, "bytes": tokens * hidden * 2},
    }
    assert told["comm"] == told["comm_formula"]


def test_json_tells_every_copy_its_logprobs_and_what_was_shared(
    checkpoint: Path, four: Path
) -> None:
    words = ("--prompt", "x" * 40, "--prompt", "", "-n", 2, "--temperature", 1, "--logprobs", 1)
    asked = ["generate", checkpoint, "--fabric", four, "--json", "--layout", "tp1", *words]
    done = subprocess.run(
        [WIRECUT, *map(str, asked), "--max-tokens", "5", "--stop", "never", "--top-k", "9"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "2 of 4 answers failed, as in: a prompt is empty" in done.stderr
    told = json.loads(done.stdout)
    assert [output["prompt"] for output in told["outputs"]] == [0, 0, 1, 1]
    assert [output["stopped_by"] for output in told["outputs"]] == ["length"] * 2 + ["failed"] * 2
    for output in told["outputs"][:2]:
        assert len(output["token_ids"]) == len(output["logprobs"]) == 5
        assert all(each["chosen"] <= 0 and len(each["top"]) == 1 for each in output["logprobs"])
    assert told["scheduled"] == {
        "prompt_tokens": 80,
        "cached_tokens": 32,
        "preemptions": 0,
        "outgrown": 0,
        "recomputed_tokens": 0,
    }


def test_one_token_has_no_time_per_token(checkpoint: Path, four: Path) -> None:
    told = generate(checkpoint, four, "--prompt", "a", "--max-tokens", 1, "--layout", "tp1")
    assert told["tpot_s"] is None
    assert told["comm"] == {}


def test_a_seed_draws_the_same_tokens_alone_and_in_company_and_in_any_layout(
    checkpoint: Path, four: Path
) -> None:
    hot = ("--temperature", 1.5, "--seed", 7, "--max-tokens", 12, "--dtype", "fp32")
    alone = generate(checkpoint, four, "--prompt", "abc", "--layout", "tp1", *hot)
    company = generate(
        checkpoint, four, "--prompt", "abc", "--prompt", "xy", "--layout", "tp2pp2", *hot
    )
    other = generate(checkpoint, four, "--prompt", "abc", "--layout", "tp1", *hot[:3], 8, *hot[4:])
    assert company["outputs"][0]["token_ids"] == alone["token_ids"]
    assert other["token_ids"] != alone["token_ids"]


def test_text_streams_and_tables_follow(checkpoint: Path, four: Path) -> None:
    words = ["generate", checkpoint, "--fabric", four, "--prompt", "hi there", "--max-tokens", 4]
    done = subprocess.run(
        [WIRECUT, *map(str, words)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("hi there")
    assert "Predicted and measured" in done.stdout
    assert "On the wires of" in done.stdout
    assert "Of 8 prompt tokens 0 were computed already" in " ".join(done.stdout.split())
    assert "KV room taken: 32 tokens a replica. There is memory for " in done.stderr


def test_a_plan_runs_and_so_does_another_layout_of_its_ranking(
    checkpoint: Path, four: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    wirecut("plan", checkpoint, "--fabric", four, "--out", plan)
    chosen = json.loads(plan.read_text())["chosen"]["layout"]
    first = json.loads(wirecut("generate", plan, "--prompt", "abc", "--json"))
    other = json.loads(wirecut("generate", plan, "--prompt", "abc", "--layout", "pp4", "--json"))
    assert (first["layout"], other["layout"]) == (chosen, "pp4")
    assert first["outputs"][0]["stopped_by"] == "length"


def engine(folder: Path, layout: Layout, stages: tuple[tuple[int, int], ...]) -> Engine:
    cut = Cut(layout, tuple(range(layout.world_size)), stages)
    limits = Limits(max_batched_tokens=16, kv_tokens=128)
    return Engine(folder, cut, assumed_fabric(4), limits=limits, dtype="fp32")


def test_each_rank_reads_only_its_slices(checkpoint: Path) -> None:
    spec, stages = read_config(checkpoint / "config.json"), ((0, 1), (1, 4))
    with engine(checkpoint, Layout(tp=2, pp=2), stages) as running:
        read = [loaded.bytes_read for loaded in running.loaded]
    assert read == [
        rank_bytes(spec, stages, Layout(tp=2, pp=2), stage=stage, tp_rank=tp_rank, dtype="bf16")
        for stage in (0, 1)
        for tp_rank in (0, 1)
    ]
    assert sum(read) < 2 * 2 * spec.parameters


def test_more_requests_than_kv_room_wait_or_are_preempted_and_all_finish(checkpoint: Path) -> None:
    prompts = [Prompt(tuple(range(3, 40 + i)), 40) for i in range(6)]
    with engine(checkpoint, Layout(pp=2), ((0, 2), (2, 4))) as running:
        together = running.generate(prompts)
    with engine(checkpoint, Layout(), ((0, 4),)) as running:
        in_turn = [running.generate([prompt])[0] for prompt in prompts]
    assert [len(answer.tokens) for answer in together] == [40] * 6
    assert [answer.tokens for answer in together] == [answer.tokens for answer in in_turn]


def test_prompts_that_begin_alike_share_and_write_the_same(checkpoint: Path) -> None:
    shared = tuple(range(3, 80))
    prompts = [Prompt((*shared, 90 + i), 70) for i in range(4)] + [Prompt(shared[:64], 70)]
    cut = Cut(Layout(pp=2), (0, 1), ((0, 2), (2, 4)))
    answers: list[list[list[int]]] = []
    for prefix_cache in (True, False):
        limits = Limits(max_batched_tokens=48, kv_tokens=256, prefix_cache=prefix_cache)
        with Engine(checkpoint, cut, assumed_fabric(2), limits=limits, dtype="fp32") as running:
            answers += [[each.tokens for each in running.generate(prompts)] for _ in range(2)]
            dealt = running.finish().dealt
        assert dealt.prompt_tokens == 2 * sum(len(prompt.tokens) for prompt in prompts)
        assert (dealt.cached_tokens >= 7 * 64) == prefix_cache
        assert dealt.preemptions > 0
    assert answers[1:] == answers[:-1]


BAD = [
    (Prompt((), 4), "a prompt is empty"),
    (Prompt((1,), 0), "max_tokens is 0"),
    (Prompt((1, 999), 4), "token ids outside 0 to 319"),
    (Prompt((1,) * 100, 40), "KV room for 128"),
    (Prompt((1,) * 5000, 40), "window is 4096"),
    (Prompt((1,), 4, Sampling(temperature=float("nan"))), "temperature is nan"),
    (Prompt((1,), 4, Sampling(top_p=1.5)), "top_p is 1.5"),
    (Prompt((1,), 4, stop_tokens=(320,)), "stop tokens outside"),
    (Prompt((1,), 4, stop=("",)), "stop string is empty"),
]


def test_prompts_that_cannot_be_served_fail_and_others_go_on(checkpoint: Path) -> None:
    good = Prompt((5, 6), 3)
    with engine(checkpoint, Layout(), ((0, 4),)) as running:
        answers = running.generate([good, *(prompt for prompt, _ in BAD), good])
        [untold] = running.generate([Prompt((1,), 4, stop=("x",))])
    assert answers[0].tokens == answers[-1].tokens
    assert [answer.reason for answer in answers] == ["length", *["failed"] * len(BAD), "length"]
    for answer, (_, words) in zip(answers[1:-1], BAD, strict=True):
        assert isinstance(answer.error, UsageError)
        assert words in str(answer.error)
        assert answer.tokens == []
    assert "tokenizer" in str(untold.error)


def spoilt(checkpoint: Path, folder: Path) -> Path:
    """The checkpoint with an embedding of token 9 that is not a number."""
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][9] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_logits_that_are_not_finite_fail_their_request_alone(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = spoilt(checkpoint, tmp_path / "spoilt")
    good, bad = Prompt(tuple(range(20, 60)), 6), Prompt((*range(20, 55), 9), 6)
    with engine(folder, Layout(pp=2), ((0, 2), (2, 4))) as running:
        answers = running.generate([good, bad, good])
        again = running.generate([good, bad])
    assert answers[0].tokens == answers[2].tokens == again[0].tokens
    assert len(answers[0].tokens) == 6
    for answer in (answers[1], again[1]):
        assert (answer.reason, answer.tokens) == ("failed", [])
        assert isinstance(answer.error, RankFailed)
        assert "rank 1, step" in str(answer.error)


def test_a_stop_string_ends_one_answer_before_it_and_frees_its_room(checkpoint: Path) -> None:
    text, prompts = Text(checkpoint), [Prompt((7, 8, 9), 30), Prompt((9, 8, 7), 30)]
    cut, limits = Cut(Layout(), (0,), ((0, 4),)), Limits(max_batched_tokens=16, kv_tokens=128)
    with Engine(
        checkpoint, cut, assumed_fabric(1), limits=limits, dtype="fp32", text=text
    ) as running:
        whole = running.generate(prompts)
        told = whole[0].text
        stop = next(told[i : i + 2] for i in range(4, 28) if told.find(told[i : i + 2]) == i)
        cut_short = [replace(prompts[0], stop=("never there", stop)), prompts[1]]
        answers, pieces = [Answer(), Answer()], ["", ""]
        for index, piece in running.stream(cut_short, answers):
            pieces[index] += piece
        ignoring = replace(prompts[1], stop_tokens=(whole[1].tokens[5],), ignore_eos=True)
        stopping = replace(ignoring, ignore_eos=False)
        stopped = running.generate([stopping, ignoring])
        running.finish()
    assert answers[0].reason == "stop"
    assert answers[0].text == pieces[0] == told[: told.index(stop)]
    assert answers[1].text == pieces[1] == whole[1].text == text.decode(whole[1].tokens)
    assert [answer.reason for answer in stopped] == ["stop", "length"]
    assert stopped[0].tokens == whole[1].tokens[: whole[1].tokens.index(whole[1].tokens[5]) + 1]
    assert stopped[1].tokens == whole[1].tokens


def test_draws_are_the_same_in_any_layout_company_and_room(checkpoint: Path) -> None:
    hot = Sampling(temperature=1.3, top_k=40, top_p=0.95, frequency_penalty=0.7, seed=5, logprobs=2)
    prompts = Prompt(tuple(range(3, 40)), 40, hot).copies(3)
    stages = {1: ((0, 4),), 2: ((0, 2), (2, 4))}
    told: list[list[Answer]] = []
    for layout, kv_tokens in ((Layout(), 512), (Layout(tp=2), 96), (Layout(pp=2, tp=2), 160)):
        cut = Cut(layout, tuple(range(layout.world_size)), stages[layout.pp])
        limits = Limits(max_batched_tokens=24, kv_tokens=kv_tokens)
        with Engine(checkpoint, cut, assumed_fabric(4), limits=limits, dtype="fp32") as running:
            told.append(running.generate(prompts))
    assert [a.tokens for a in told[0]] == [a.tokens for a in told[1]] == [a.tokens for a in told[2]]
    assert len({tuple(answer.tokens) for answer in told[0]}) == 3
    assert [len(answer.logprobs) for answer in told[0]] == [40] * 3
    for ours, theirs in zip(told[0][1].logprobs, told[2][1].logprobs, strict=True):
        assert ours.chosen == pytest.approx(theirs.chosen, abs=1e-3)
        assert len(ours.top) == 2


def test_copies_of_a_greedy_prompt_are_refused() -> None:
    with pytest.raises(UsageError, match="equal answers"):
        Prompt((1,), 4).copies(2)
    with pytest.raises(UsageError, match="n is 0"):
        Prompt((1,), 4).copies(0)
    first, *others = Prompt((1,), 4, Sampling(temperature=1.0, seed=3)).copies(4)
    assert first.sampling.seed == 3
    assert len({each.sampling.seed for each in others}) == 3


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "ab", "ba", "é", "日"]), max_size=12), st.data())
def test_no_part_of_a_stop_string_is_ever_told(pieces: list[str], data: st.DataObject) -> None:
    class Letters:
        """A tokenizer whose tokens are the places of `pieces`."""

        def decode(self, tokens: list[int]) -> str:
            return "".join(pieces[token] for token in tokens)

    stops = tuple(data.draw(st.lists(st.text("abé日", min_size=1, max_size=4), max_size=3)))
    writer, told = Writer(Letters(), stops), ""  # type: ignore[arg-type]
    for token in range(len(pieces)):
        told += writer.add(token)
        if writer.stopped:
            break
    else:
        told += writer.end()
    whole = "".join(pieces)
    assert whole.startswith(told)
    assert not any(stop in told for stop in stops)
    if any(stop in whole for stop in stops):
        assert writer.stopped
        assert any(whole[len(told) :].startswith(stop) for stop in stops)
    else:
        assert told == whole


def test_stages_of_another_model_are_refused_before_anything_starts(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="8 layers"):
        engine(checkpoint, Layout(), ((0, 8),))
    with pytest.raises(LayoutError, match="sizes that work: 1, 2, 4"):
        engine(checkpoint, Layout(tp=3), ((0, 4),))


def test_what_is_planned_and_not_run_is_refused_before_anything_starts(
    checkpoint: Path, tmp_path: Path
) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["rope_scaling"] = {"rope_type": "llama3", "factor": 8.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "Run it as" in wirecut("plan", tmp_path)
    with pytest.raises(ModelError, match="low_freq_factor is None, expected a positive number"):
        engine(tmp_path, Layout(), ((0, 4),))


def test_a_cut_over_two_hosts_is_refused_before_anything_starts(checkpoint: Path) -> None:
    here = assumed_fabric(2)
    apart = replace(here, devices=(here.devices[0], replace(here.devices[1], host="elsewhere")))
    cut = Cut(Layout(pp=2), (0, 1), ((0, 2), (2, 4)))
    with pytest.raises(UsageError, match="elsewhere"):
        Engine(checkpoint, cut, apart, limits=Limits(kv_tokens=64), dtype="bf16")
