"""Kernels in C for the CPU, compiled for this machine when first needed and kept for the next time.

    agree(LANES=16)         # what Python repeats of the sources is what they say
    library = load()        # None: no compiler, or WIRECUT_NATIVE=0; torch then does everything
    library.rms_norm(x.data_ptr(), weight.data_ptr(), out.data_ptr(), rows, width, eps, 1)

The sources are in `machine/c`, one idea a file. They use torch's threads: torch is to be imported
before, so that its OpenMP is the one found.
"""

import ctypes
import hashlib
import os
import sys
from functools import cache
from pathlib import Path

from wirecut.files import cache_dir
from wirecut.machine.compile import run_compiler

SOURCES = Path(__file__).parent / "c"
COMPILE = ("cc", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", "-Wno-psabi")
COMPILE_S = 120.0

_at, _int, _long, _float = ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_float


class NativeDrift(Exception):
    """Python and the C sources beside it do not agree: a mistake in wirecut."""


class Attention(ctypes.Structure):
    """What attention is asked; see c/attention.h."""

    _fields_ = (
        *((name, _at) for name in ("queries", "keys", "values", "out")),
        *((name, _at) for name in ("blocks", "lengths", "rows", "sinks")),
        *((name, _long) for name in ("sequences", "blocks_each", "heads", "kv_heads")),
        *((name, _long) for name in ("head_dim", "places", "block", "window", "query_stride")),
        ("scale", _float),
        ("cap", _float),
    )


ARGUMENTS = {
    "all_reduce": (_at, _at, _at, _long, _long, _long, _long, _long, _int),
    "decode_attention": (ctypes.POINTER(Attention), _int),
    "fact": (ctypes.c_char_p,),
    "embed": (_at, _at, _at, _long, _long, _long, _long, _int),
    "keep": (_at, _at, _at, _long, _long, _long, _long, _long, _int),
    "rms_norm": (_at, _at, _at, _long, _long, _float, _int),
    "norm_heads": (_at, _at, _long, _long, _long, _long, _float, _int),
    "rotate": (_at, _at, _at, _long, _long, _long, _long, _long, _int),
    "silu_gate": (_at, _at, _long, _long, _int),
}
PRODUCTS = {  # where the processor multiplies bf16 in vectors
    "prompt_attention": (ctypes.POINTER(Attention), _at),
    "pack_bf16": (_at, _at, _long, _long),
    "linear_bf16": (_at, _at, _at, _at, _long, _long, _long),
    "run_halves": (_at, _long, _at, _at),
}


@cache
def load() -> ctypes.CDLL | None:
    """The library, compiled if need be. Says so once when it cannot be had."""
    if os.environ.get("WIRECUT_NATIVE") == "0":
        return None
    try:
        library = ctypes.CDLL(str(_compiled()))
    except OSError as error:
        said = str(error).partition("\n")[0]
        print(f"wirecut: its C kernels cannot be used, torch's are ({said})", file=sys.stderr)
        return None
    for name, arguments in (ARGUMENTS | PRODUCTS).items():
        if name in ARGUMENTS or hasattr(library, name):
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, _long
    return library


def agree(**repeated: int | type[ctypes.Structure]) -> None:
    """Check constants and structs that Python repeats against the library's, as far as it has them;
    a call that passes another layout would read what is not there. Raises NativeDrift.
    """
    library = load()
    for name, mine in repeated.items():
        own = mine if isinstance(mine, int) else ctypes.sizeof(mine)
        theirs = own if library is None else library.fact(name.encode())
        if theirs not in (own, -1):
            raise NativeDrift(f"{name} is {own} in Python and {theirs} in the C kernels")


def _compiled() -> Path:
    """The library's file. Another processor, compiler's command or source is another file."""
    sources = sorted(SOURCES.glob("*.[ch]"))
    facts = [source.read_bytes() for source in sources]
    key = hashlib.sha256(b"\0".join([*facts, " ".join(COMPILE).encode(), _processor()]))
    home = cache_dir()
    made = home / f"kernels-{key.hexdigest()[:16]}.so"
    if not made.exists():
        home.mkdir(parents=True, exist_ok=True)
        code = [str(source) for source in sources if source.suffix == ".c"]
        run_compiler([*COMPILE, *code, "-lm"], made, most_s=COMPILE_S)
    return made


def _processor() -> bytes:
    """What this processor can do, as far as Linux says."""
    told = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in told if line.startswith(("flags", "Features"))), "").encode()
