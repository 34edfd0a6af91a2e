#!/usr/bin/env python3
"""wirecut and vLLM on two hosts joined by a wire of known speed; writes wires.json and wires.md.

    python wires.py --model DIR --vllm-python P [--passes 2 --rounds 3]      # root, Linux

The hosts are network namespaces with a core each (wirecut.bench.testbed); "shm" is one host. Every
cell is 128 tokens in and 64 out for each user, all users at once, from the asking to the last
token: prefill included. Passes go through all wires and splits, wirecut first and vLLM after it.
vLLM is asked over HTTP from its first host, wirecut by a call: what HTTP costs is some ms a run.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compare import machine, wait_for_quiet
from protocol import NEW_TOKENS, PROMPT_TOKENS, random_prompts
from report import table

from wirecut.api import pricing_of
from wirecut.bench.lab import LabWire, hosts_of, parse_wires
from wirecut.engine.engine import Engine
from wirecut.engine.prompt import Prompt
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.probe import probe
from wirecut.layout.layout import Layout, parse_layout
from wirecut.layout.plan import Limits
from wirecut.machine.world import RankHost
from wirecut.planner.cutting import cut_for

HERE = Path(__file__).parent
WIRES, SPLITS, USERS = "shm,1gbit,100mbit", ("tp2", "pp2"), (1, 8)
PORT, STORE_PORT = 8123, 29611
READY_S, PATIENCE_S = 600.0, 60.0  # vLLM compiles at its first start
LIMITS = Limits(
    max_batched_tokens=192,
    kv_tokens=2 * max(USERS) * (PROMPT_TOKENS + NEW_TOKENS),
    prefix_cache=False,  # rounds repeat their prompts
)
# What asks vLLM, in the namespace of its first host: users at once, seconds to the last answer.
ASK = """
import json, sys, time, urllib.request
from concurrent.futures import ThreadPoolExecutor
url, asked = sys.argv[1], json.load(sys.stdin)
def ask(body):
    kind = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), kind)
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)["usage"]["completion_tokens"]
with ThreadPoolExecutor(len(asked)) as pool:
    begin = time.perf_counter()
    tokens = sum(pool.map(ask, asked))
print(json.dumps([tokens, time.perf_counter() - begin]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--model", type=Path, help="what make_model.py wrote")
    parser.add_argument("--vllm-python", help="the Python of vLLM's environment")
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="after each start of an engine")
    parser.add_argument("--wires", type=parse_wires, default=parse_wires(WIRES))
    parser.add_argument("--render", action="store_true", help="wires.md again, from wires.json")
    args = parser.parse_args()
    kept = HERE / "wires.json"
    if not args.render:
        for found in measured(args):
            kept.write_text(json.dumps(found, indent=1) + "\n")
    (HERE / "wires.md").write_text(page(json.loads(kept.read_text())))


def measured(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every run so far, after each start of an engine: wire, split, users, tokens a second. Every
    second pass begins with vLLM.
    """
    found: dict[str, Any] = {"began": now(), "machine": machine(), "runs": []}
    fabrics = {wire.name: fabric_of(wire) for wire in args.wires}
    engines = {"wirecut": run_wirecut, "vLLM": run_vllm}
    for number in range(args.passes):
        for wire in args.wires:
            for split in map(parse_layout, SPLITS):
                for name, run in list(engines.items())[:: 1 - 2 * (number % 2)]:
                    wait_for_quiet(PATIENCE_S)
                    with (
                        hosts_of(wire) as hosts,
                        run(args, split, hosts, fabrics[wire.name]) as ask,
                    ):
                        ask(1)
                        for users in USERS * args.rounds:
                            rate = round(ask(users), 1)
                            cell = {"wire": wire.name, "split": str(split), "users": users}
                            told = {"engine": name, "pass": number + 1, **cell, "tok_s": rate}
                            found["runs"].append(told)
                            print(name, *cell.values(), rate, flush=True)
                    yield {**found, "ended": now()}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="minutes")


def fabric_of(wire: LabWire) -> Fabric:
    """The wire as probed."""
    with hosts_of(wire) as hosts:
        fabric = probe(hosts=hosts) if hosts else probe(2)
    assert fabric is not None, "not under a launcher"
    return fabric


Ask = Callable[[int], float]


@contextmanager
def run_wirecut(
    args: argparse.Namespace, split: Layout, hosts: Sequence[RankHost], fabric: Fabric
) -> Iterator[Ask]:
    pricing = pricing_of(args.model, fabric, dtype="bf16", limits=LIMITS)
    cut = cut_for(pricing, split, (0, 1), context=PROMPT_TOKENS + NEW_TOKENS / 2, sequences=8)
    with Engine(args.model, cut, fabric, limits=LIMITS, dtype="bf16", hosts=hosts) as engine:

        def ask(users: int) -> float:
            prompts = [Prompt(tuple(each), NEW_TOKENS) for each in random_prompts(users)]
            begin = time.perf_counter()
            tokens = sum(len(answer.tokens) for answer in engine.generate(prompts))
            return checked(tokens, users) / (time.perf_counter() - begin)

        yield ask


@contextmanager
def run_vllm(
    args: argparse.Namespace, split: Layout, hosts: Sequence[RankHost], fabric: Fabric
) -> Iterator[Ask]:
    """vLLM's server, a process a host, all of which ends with the block."""
    # Its threads are bound by its own setting; its front process may use either core.
    insides = [host.prefix[: host.prefix.index("taskset")] for host in hosts] or [()]
    vllm = [str(Path(args.vllm_python).parent / "vllm"), "serve", str(args.model)]
    vllm += f"-tp {split.tp} -pp {split.pp} --dtype bfloat16 --max-model-len 2048".split()
    vllm += f"--max-num-seqs 64 --no-enable-prefix-caching --port {PORT}".split()
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("w+"))
        for rank, inside in enumerate(insides):
            more, settings = [], {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}
            if hosts:
                more = f"--nnodes {len(hosts)} --node-rank {rank} --master-addr {hosts[0].address}"
                more = (
                    f"{more} --master-port {STORE_PORT} --distributed-executor-backend mp".split()
                )
                more += ["--headless"] * (rank > 0)
                settings = {
                    "VLLM_HOST_IP": hosts[rank].address,
                    "GLOO_SOCKET_IFNAME": "eth0",
                    "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, hosts[rank].cores)),
                }
            settings |= {"VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1"}
            stack.enter_context(process([*inside, *vllm, *more], settings, log))
        at = f"http://{hosts[0].address if hosts else '127.0.0.1'}:{PORT}"
        wait_until_ready([*insides[0], sys.executable], f"{at}/health", log)

        def ask(users: int) -> float:
            body = {"model": str(args.model), "max_tokens": NEW_TOKENS, "temperature": 0}
            asked = [{**body, "prompt": x, "ignore_eos": True} for x in random_prompts(users)]
            said = subprocess.run(
                [*insides[0], sys.executable, "-c", ASK, f"{at}/v1/completions"],
                input=json.dumps(asked),
                capture_output=True,
                text=True,
                check=True,
            )
            tokens, seconds = json.loads(said.stdout)
            return checked(tokens, users) / seconds

        yield ask


@contextmanager
def process(command: list[str], settings: dict[str, str], log: Any) -> Iterator[None]:
    """A process with a session of its own, all of which is ended after the block."""
    environment = {**os.environ, **settings}
    started = subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    try:
        yield
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            started.wait(20)
        with suppress(ProcessLookupError):  # workers may outlive the process that started them
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def wait_until_ready(python: list[str], url: str, log: Any) -> None:
    """Until `url` answers. Ends the benchmark with the log's tail when it does not."""
    look = f"import urllib.request as u; u.urlopen({url!r}, timeout=2)"
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        if not subprocess.run([*python, "-c", look], capture_output=True, check=False).returncode:
            return
        time.sleep(2)
    log.seek(0)
    raise SystemExit(f"vLLM was not ready in {READY_S:.0f} s:\n{log.read()[-3000:]}")


def checked(tokens: int, users: int) -> int:
    if tokens != users * NEW_TOKENS:
        raise SystemExit(f"{tokens} tokens for {users} users, expected {users * NEW_TOKENS}")
    return tokens


def page(found: dict[str, Any]) -> str:
    """wires.md: medians, spreads and ratios, the misses told first."""
    rates: dict[tuple[str, str, int, str], list[float]] = {}
    for run in found["runs"]:
        key = (run["wire"], run["split"], run["users"], run["engine"])
        rates.setdefault(key, []).append(run["tok_s"])
    lines = [["wire", "split", "users", "wirecut tok/s", "vLLM tok/s", "wirecut / vLLM"]]
    misses = []
    for wire, split, users in dict.fromkeys(key[:3] for key in rates):
        ours, theirs = (rates[wire, split, users, name] for name in ("wirecut", "vLLM"))
        ratio = statistics.median(ours) / statistics.median(theirs)
        cells = [wire, split.upper(), str(users), spread(ours), spread(theirs), f"{ratio:.2f}"]
        lines.append(cells)
        if ratio <= 1:
            misses.append(f"{split.upper()} over {wire}, {users} users ({ratio:.2f})")
    at, runs = found["machine"], max(map(len, rates.values()))
    return f"""\
# wirecut and vLLM over wires of known speed

Written by `wires.py` from `wires.json`, which holds every single run.
{found["began"]} to {found["ended"]}; {at["cpu"]}, {at["cores"]} cores, {at["system"]}.
Tokens a second of all users together, prefill included: 128 tokens in, 64 out. Medians of {runs}
runs, in parentheses the least and the most.

Behind vLLM: {"; ".join(misses) or "nowhere"}.

{table(lines)}

`make bench-wires VLLM_PYTHON=...`, as root.
"""


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
