#!/usr/bin/env python3
"""wirecut and its peers in turn on one machine, the same work for each; writes what they reached.

    python compare.py --model DIR --gguf FILE --vllm-python P --llamacpp-python P [--rounds 5]

A round runs every engine once, so that a drift of the machine meets all of them; every second
round goes backwards. A run waits for a quiet moment and is done again when others took more than
--most-others of the cores meanwhile. An engine without its Python is left out, one that fails is
reported as failed. Writes results.json with every run, and from it README.md.
"""

import argparse
import ctypes
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

from protocol import CROWD_TOKENS
from report import WHOLE_PROMPTS, render

HERE = Path(__file__).parent
DEADLINE_S, ORPHANS_S = 900.0, 30.0
ATTEMPTS = 3
WHOLE_PROMPT = str(CROWD_TOKENS + 16)  # tokens of a step that holds a crowd's prompt undivided
QUIET_SHARE, QUIET_S = 0.03, 2.0
PR_SET_CHILD_SUBREAPER = 36  # prctl(2): orphans below this process become its children
CORES = sorted(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Entrant:
    """One row of the comparison: an engine under one split, and how it is started."""

    engine: str
    split: str
    python: str
    script: str
    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.engine} {self.split}"


def main() -> None:
    args = parse()
    results = HERE / "results.json"
    if not args.render:
        found = compare(args)
        if not args.keep:
            return
        results.write_text(json.dumps(found, indent=1) + "\n")
    (HERE / "README.md").write_text(render(json.loads(results.read_text())))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", type=Path, help="what make_model.py wrote")
    parser.add_argument("--gguf", type=Path, help="what to_gguf.py wrote, for llama.cpp")
    parser.add_argument("--fabric", type=Path, help="for wirecut: what `wirecut probe` wrote")
    parser.add_argument("--wirecut-python", default=sys.executable)
    parser.add_argument("--transformers-python", default=sys.executable)
    parser.add_argument("--vllm-python", default="", help="the Python of vLLM's environment")
    parser.add_argument("--llamacpp-python", default="", help="the Python of llama.cpp's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--most-others", type=float, default=0.05, help="share of the cores")
    parser.add_argument("--patience-s", type=float, default=60.0, help="to wait for a quiet moment")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--note", default="", help="what a reader must know of these conditions")
    parser.add_argument("--no-write", dest="keep", action="store_false", help="only print")
    parser.add_argument("--render", action="store_true", help="README.md again, from results.json")
    args = parser.parse_args()
    if not args.render and not (args.model and (args.model / "config.json").is_file()):
        parser.error("--model is the folder of a checkpoint; make_model.py writes one")
    if args.rounds < 1:
        parser.error(f"--rounds is {args.rounds}, expected at least 1")
    return args


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Run the rounds, print the table, and return everything that was measured."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    rows = [each for each in entrants(args) if each.python and args.only in each.name]
    began = datetime.now(UTC).isoformat(timespec="minutes")
    runs: list[dict[str, Any]] = []
    for number in range(args.rounds):
        for row in rows if number % 2 == 0 else reversed(rows):
            for _ in range(ATTEMPTS):
                wait_for_quiet(args.patience_s)
                run = {"round": number + 1, "engine": row.engine, "split": row.split}
                run |= run_once(row)
                runs.append(run)
                print(f"round {number + 1} of {args.rounds}  {row.name:24} {told(run)}", flush=True)
                if run["others_share"] <= args.most_others:
                    break
    found = {
        "began": began,
        "ended": datetime.now(UTC).isoformat(timespec="minutes"),
        "rounds": args.rounds,
        "machine": machine(),
        "fabric": "probed" if args.fabric else "assumed",
        "note": args.note,
        "weights_gb": weights_gb(args.model),
        "most_others": args.most_others,
        "runs": runs,
    }
    print("\n" + render(found, table_only=True))
    return found


def entrants(args: argparse.Namespace) -> list[Entrant]:
    """The rows, wirecut next to the peer that it is measured by."""
    model, (one, two) = str(args.model), (CORES[0], CORES[min(1, len(CORES) - 1)])
    fabric = ("--fabric", str(args.fabric)) if args.fabric else ()
    bind = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": f"{one}|{two}"}

    def wirecut(layout: str, *more: str, told: str = "") -> Entrant:
        arguments, name = (model, layout, *fabric, *more), layout.upper() + told
        return Entrant("wirecut", name, args.wirecut_python, "run_wirecut.py", arguments)

    def vllm(tp: int, pp: int) -> Entrant:
        split, arguments = f"TP{tp}" if tp > 1 else f"PP{pp}", (model, str(tp), str(pp))
        return Entrant("vLLM", split, args.vllm_python, "run_vllm.py", arguments, bind)

    transformers = Entrant(
        "transformers", "2 threads", args.transformers_python, "run_transformers.py", (model, "2")
    )
    python = args.llamacpp_python if args.gguf else ""
    llamacpp = Entrant("llama.cpp", "2 threads", python, "run_llamacpp.py", (str(args.gguf), "2"))
    return [
        wirecut("tp2"),
        vllm(2, 1),
        wirecut("pp2"),
        vllm(1, 2),
        wirecut("tp1"),
        llamacpp,
        wirecut("dp2"),
        Entrant("memory", "read", args.wirecut_python, "run_stream.py", ()),
        wirecut("tp2", "--crowd-only", "--budget", WHOLE_PROMPT, told=WHOLE_PROMPTS),
        transformers,
    ]


def wait_for_quiet(patience_s: float) -> None:
    """Return once nobody has used the cores for a while, or after `patience_s`."""
    begin = time.monotonic()
    while time.monotonic() - begin < patience_s:
        before = cpu_seconds().everyone
        time.sleep(QUIET_S)
        if cpu_seconds().everyone - before < QUIET_SHARE * QUIET_S * len(CORES):
            return


def run_once(row: Entrant) -> dict[str, Any]:
    """Start an engine, read its lines, and see what went to others once it was ready."""
    command = [row.python, str(HERE / row.script), *row.arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **row.environment}
    run: dict[str, Any] = {"start_s": None, "results": []}
    with tempfile.TemporaryFile("w+") as log:
        begin = ready = time.monotonic()
        at_start = at_ready = cpu_seconds()
        with started(command, environment, log) as process:
            assert process.stdout
            for line in process.stdout:
                if line.startswith("READY"):
                    ready, at_ready = time.monotonic(), cpu_seconds(at_start.ours)
                    run["start_s"] = round(ready - begin, 2)
                elif line.startswith("RESULT "):
                    run["results"].append(json.loads(line.removeprefix("RESULT ")))
                    run["pss_gib"] = max(run.get("pss_gib", 0), round(pss_gib(), 2))
            code = process.wait()
            reap_orphans()
        at_end, share = cpu_seconds(), 1 / ((time.monotonic() - ready) * len(CORES))
        ours, everyone = at_end.ours - at_ready.ours, at_end.everyone - at_ready.everyone
        run["others_share"] = round(max(0.0, everyone - ours) * share, 3)
        run["stolen_share"] = round((at_end.stolen - at_ready.stolen) * share, 3)
        if code or not run["results"]:
            run["failed"] = f"exit code {code}"
            log.seek(0)
            print(log.read()[-2000:], file=sys.stderr)
    return run


@contextmanager
def started(
    command: list[str], environment: dict[str, str], log: IO[str]
) -> Iterator[subprocess.Popen[str]]:
    """A process with a session of its own, all of which ends after DEADLINE_S, or with this one."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
    )
    watch = threading.Timer(DEADLINE_S, os.killpg, (process.pid, signal.SIGKILL))
    watch.start()
    try:
        yield process
    finally:
        watch.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def reap_orphans() -> None:
    """Wait for what an engine left behind: its time counts, and none of it meets the next."""
    until = time.monotonic() + ORPHANS_S
    while time.monotonic() < until:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(0.05)
    raise SystemExit("processes of the last engine are still there; end them and start again")


class CpuSeconds(NamedTuple):
    """Used by this process's children, by everyone, and stolen by the hypervisor's other guests."""

    ours: float
    everyone: float
    stolen: float


def cpu_seconds(ended: float | None = None) -> CpuSeconds:
    """Now. Children count when they have ended; given what those before used, while they live."""
    tick = os.sysconf("SC_CLK_TCK")
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _, _, irq, softirq, stolen = (int(x) / tick for x in fields)
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    ours = own.ru_utime + own.ru_stime
    if ended is not None:
        ours = ended + sum(descendants().values()) / tick
    return CpuSeconds(ours, user + nice + system + irq + softirq, stolen)


def descendants() -> dict[int, int]:
    """Each living process below this one, and its clock ticks with those of the children that it
    has buried.
    """
    parent, ticks = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parent[int(folder.name)] = int(fields[1])
            ticks[int(folder.name)] = sum(map(int, fields[11:15]))

    def is_below(pid: int) -> bool:
        while pid in parent and parent[pid] != os.getpid():
            pid = parent[pid]
        return pid in parent

    return {pid: used for pid, used in ticks.items() if is_below(pid)}


def pss_gib() -> float:
    """Memory of the processes below this one, what several share counted once."""
    kib = 0
    for pid in descendants():
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib / 2**20


def told(run: dict[str, Any]) -> str:
    """A run in a line."""
    if "failed" in run:
        return f"failed: {run['failed']}"
    rates = ", ".join(f"{each['decode_tok_s']:.0f}" for each in run["results"] if "batch" in each)
    gaps = ", ".join(f"{each['gap_s']:.2f}" for each in run["results"] if "gap_s" in each)
    return (
        f"decode {rates or '-'} tok/s, worst gap {gaps or '-'} s, {run['pss_gib']:.2f} GiB, "
        f"ready in {run['start_s']:.1f} s, others took {run['others_share']:.0%} of the cores"
    )


def weights_gb(model: Path) -> float:
    """What a token reads of the checkpoint: all but the embedding, of which it reads a row."""
    config = json.loads((model / "config.json").read_text())
    files = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    return (files - 2 * config["vocab_size"] * config["hidden_size"]) / 1e9


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    told = subprocess.run(["lscpu", "-J"], capture_output=True, text=True, check=True).stdout
    facts = {each["field"].rstrip(":"): each["data"] for each in json.loads(told)["lscpu"]}
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
    flags = facts.get("Flags", "").split()
    return {
        "cpu": facts.get("Model name", platform.processor()),
        "family": f"family {facts.get('CPU family')}, model {facts.get('Model')}",
        "cores": len(CORES),
        "threads_per_core": facts.get("Thread(s) per core"),
        "l2": facts.get("L2 cache"),
        "l3": facts.get("L3 cache"),
        "flags": [flag for flag in wanted if flag in flags],
        "virtual": facts.get("Hypervisor vendor"),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
