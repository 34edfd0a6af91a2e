"""A model by name: a local folder, one of the bundled catalogue, or a Hugging Face id. Reads
`config.json`, and the headers of weights that are there.

    folder, spec = find_model("examples/demo-model")
    find_model("Qwen/Qwen3-32B (AWQ)")[1]        # a model in another weight format
"""

import os
import re
from dataclasses import replace
from pathlib import Path

from wirecut.errors import ModelError
from wirecut.spec.bundled import catalogue_names, find_bundled
from wirecut.spec.checkpoint import check_checkpoint
from wirecut.spec.hf import read_config
from wirecut.spec.model import ModelSpec

SHOWN = 80  # characters of a name in an error
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# What people write behind a model's name for how its weights are stored.
WRITTEN_FORMATS = {
    "awq": "int4-g128",
    "gptq": "int4-g128",
    "int4": "int4-g128",
    "w4a16": "int4-g128",
    "int8": "int8",
    "w8a8": "int8",
    "fp8": "fp8",
    "fp4": "nvfp4",
    "nvfp4": "nvfp4",
    "mxfp4": "mxfp4",
}


def find_model(name: str) -> tuple[Path, ModelSpec]:
    """The folder and the spec of `name`. Raises ModelError that says what was tried.

    In this order: a local folder, the Hub's cache, the bundled catalogue, the Hub. For an id the
    folder is its place in the Hub's cache, where only `config.json` need be, or not even that when
    the catalogue knows the model. A format in parentheses behind the name changes how the layers'
    linears are stored.
    """
    if not name.strip():
        raise ModelError(
            "the model's name is empty: give a folder with config.json, or a Hugging Face id"
        )
    written = re.fullmatch(r"(.*\S)\s*\(([^()]*)\)", name)
    word = written[2].lower().split()[-1:] if written else []
    format = WRITTEN_FORMATS.get(word[0]) if word else None
    if written and format and not os.path.exists(name):
        folder, spec = find_model(written[1])
        return folder, replace(spec.quantized(format), name=name)
    folder = Path(os.path.expanduser(name))
    if os.path.isdir(folder):  # these say no to a name that no file system takes, and do not raise
        return _local(folder)
    if os.path.exists(folder):
        raise ModelError(
            f"{folder} is a file; expected a folder with config.json, or a Hugging Face id"
        )
    is_id = bool(HUB_ID.fullmatch(name)) and not os.path.isdir(os.path.dirname(name))
    if is_id and (cached := _cached(name)):
        return _local(cached)
    if spec := find_bundled(name):
        return _hub_folder(spec.name), spec
    if is_id:
        return _local(_from_hub(name))
    raise ModelError(
        f"no model {_shown(name)}: there is no such folder, the bundled catalogue does not know "
        f"it, and it is no Hugging Face id (owner/name){_nearest(name)}"
    )


def _nearest(name: str) -> str:
    """'. Nearest: a, b' in the catalogue, or nothing."""
    from difflib import get_close_matches  # takes longer to load than most plans need

    short = {known.rpartition("/")[2].lower(): known for known in catalogue_names()}
    found = get_close_matches(name.rpartition("/")[2].lower()[:SHOWN], short, n=4, cutoff=0.6)
    return f". Nearest: {', '.join(short[one] for one in found)}" if found else ""


def _shown(name: str) -> str:
    """A name in quotes, as much of it as a line takes."""
    return repr(name if len(name) <= SHOWN else f"{name[:SHOWN]}...")


def _local(folder: Path) -> tuple[Path, ModelSpec]:
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} has no config.json; a model folder holds one beside *.safetensors"
        )
    spec = read_config(folder / "config.json")
    if any(folder.glob("*.safetensors")):
        check_checkpoint(folder, spec)
    return folder, spec


def _hub_folder(name: str) -> Path:
    """Where the Hub's client keeps an id. Asked here, since importing the client takes longer than
    a whole plan.
    """
    home = os.environ.get("HF_HOME") or (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    )
    hub = os.environ.get("HF_HUB_CACHE") or Path(home) / "hub"
    return Path(hub).expanduser() / f"models--{name.replace('/', '--')}"


def _cached(name: str) -> Path | None:
    """The folder of an id's main revision in the Hub's cache, when its config.json is there."""
    folder = _hub_folder(name)
    try:
        revision = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    snapshot = folder / "snapshots" / revision
    return snapshot if (snapshot / "config.json").is_file() else None


def _from_hub(name: str) -> Path:
    """The cached folder of a Hub id, its config.json fetched when it is not there yet."""
    import socket  # with the network's modules, which take longer to import than a plan needs
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    tried = (
        f"no model {_shown(name)}: there is no such folder, the bundled catalogue does not know it"
    )
    try:
        from huggingface_hub import (
            constants,
            hf_hub_download,  # pyright: ignore[reportUnknownVariableType]
        )
        from huggingface_hub.utils import logging
    except ImportError as error:
        raise ModelError(
            f"{tried}, and ids that are not bundled need: pip install huggingface_hub"
            f"{_nearest(name)}"
        ) from error
    logging.set_verbosity_error()  # what went wrong is said below, once
    host = urlsplit(constants.ENDPOINT).hostname or ""
    try:
        if not getproxies():
            socket.getaddrinfo(host, 443)  # asked first, since the Hub's client retries for 20 s
        return Path(hf_hub_download(name, "config.json")).parent
    except (OSError, ValueError) as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        raise ModelError(
            f"{tried}, it is not in the Hugging Face cache, and {host} did not give it: {lines[0]}"
        ) from error
