"""Options that several commands share, once. Their values are checked where they are used:
`Traffic`, `Limits`, `api`.
"""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wirecut.errors import UsageError
from wirecut.files import write_whole


class Goal(StrEnum):
    """What a ranking is for."""

    throughput = "throughput"
    latency = "latency"
    cost = "cost"


class Engine(StrEnum):
    """Whose runtime is predicted and launched."""

    wirecut = "wirecut"
    vllm = "vllm"
    sglang = "sglang"
    trtllm = "trtllm"
    lmdeploy = "lmdeploy"
    llama_cpp = "llama.cpp"


ModelArg = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A folder with config.json, or a Hugging Face id.", show_default=False
    ),
]
_FABRIC = (
    "A fabric.json, a saved `nvidia-smi topo -m` (- is standard input), or typed: "
    "2x8xL40S:pcie4:100gbe."
)
_PROBED = "Default: this machine, as last probed."
FabricOpt = Annotated[
    str | None,
    typer.Option(
        "--fabric",
        metavar="FABRIC",
        help=f"{_FABRIC} {_PROBED}",
    ),
]
FabricsOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--fabric",
        metavar="FABRIC",
        help=f"{_FABRIC} Repeated: which of them. {_PROBED}",
    ),
]
PriceOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--price",
        metavar="[DEVICE=]PRICE",
        help="Of a device and hour, for --goal cost: H100-SXM=2.5, repeated, or one for all.",
    ),
]
DeviceOpt = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="The GPUs of a saved topology: A100-SXM-80GB, or 24GB,936GB/s,71TFLOP/s.",
    ),
]
GoalOpt = Annotated[Goal, typer.Option("--goal", help="What the ranking is for.")]
InputOpt = Annotated[int, typer.Option("--input-tokens", help="Tokens of a prompt.")]
OutputOpt = Annotated[int, typer.Option("--output-tokens", help="Tokens of an answer.")]
ConcurrencyOpt = Annotated[
    int | None,
    typer.Option("--concurrency", help="Users at once, each asking again when answered.  [1]"),
]
RateOpt = Annotated[
    float | None,
    typer.Option("--rate", help="Requests per second, in place of --concurrency."),
]
TtftOpt = Annotated[
    float | None, typer.Option("--ttft-ms", help="Target: time to the first token.")
]
TpotOpt = Annotated[float | None, typer.Option("--tpot-ms", help="Target: time per output token.")]
EngineOpt = Annotated[Engine, typer.Option("--engine", help="Whose runtime is predicted.")]
MemoryShareOpt = Annotated[
    float | None,
    typer.Option(
        "--memory-share",
        metavar="SHARE",
        help="Of a device's memory for the engine, 0.01 to 1, as its own option has it (vLLM's "
        "--gpu-memory-utilization). Default: the engine's.",
    ),
]
DtypeOpt = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help="bf16, fp16, fp32; or what weights are stored in: fp8, int8, int4, fp4. Default: the "
        "checkpoint's own.",
    ),
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
LayoutOpt = Annotated[
    str,
    typer.Option("--layout", metavar="LAYOUT", help="tp4, tp4pp2, tp2pp2dp2: missing is 1."),
]
OutOpt = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write plan.json there.")
]

HtmlOpt = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write one page with pictures there."),
]


def check_outs(*outs: Path | None, kept: Path | None = None) -> None:
    """Raise UsageError when one of these files cannot be written, or would overwrite another of
    them, or `kept`, which is read.
    """
    taken = {kept.resolve(): "what is read"} if kept is not None else {}
    for out in outs:
        if out is None:
            continue
        if (what := taken.get(out.resolve())) is not None:
            raise UsageError(f"cannot write {out}: it is {what} too; give each its own name")
        taken[out.resolve()] = "another output"
        check_out(out)


def check_out(out: Path) -> None:
    """Raise UsageError when nothing can be written there, before any work is done."""
    folder = out.resolve().parent
    if out.is_dir():
        raise UsageError(f"cannot write {out}: it is a folder, expected a file name")
    if not folder.is_dir():
        raise UsageError(f"cannot write {out}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write {out}: the folder {folder} is not writable")


def write_page(text: str, out: Path) -> None:
    """Write a page, whole or not at all. Raises UsageError."""
    write_file(text.encode(), out)


def write_file(content: bytes, out: Path) -> None:
    """Write a file, whole or not at all. Raises UsageError."""
    try:
        write_whole(out, content)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}") from error
