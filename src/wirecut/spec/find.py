"""A model by name: a local folder, or a Hugging Face id. Reads `config.json`, and the headers of
weights that are there.

    folder, spec = find_model("examples/demo-model")
"""

import re
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from wirecut.errors import ModelError
from wirecut.spec.checkpoint import check_checkpoint
from wirecut.spec.hf import read_config
from wirecut.spec.model import ModelSpec

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_model(name: str) -> tuple[Path, ModelSpec]:
    """The folder and the spec of `name`. Raises ModelError that says what was tried.

    For a Hugging Face id the folder is its place in the Hub's cache, where only `config.json` need
    be.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"{folder} has no config.json; a model folder holds one beside *.safetensors"
            )
    elif folder.exists():
        raise ModelError(
            f"{folder} is a file; expected a folder with config.json, or a Hugging Face id"
        )
    elif HUB_ID.fullmatch(name) and not Path(name).parent.is_dir():
        folder = _from_hub(name)
    else:
        raise ModelError(
            f"no model {name!r}: there is no such folder, and it is no Hugging Face id (owner/name)"
        )
    spec = read_config(folder / "config.json")
    if any(folder.glob("*.safetensors")):
        check_checkpoint(folder, spec)
    return folder, spec


def _from_hub(name: str) -> Path:
    """The cached folder of a Hub id, its config.json fetched when it is not there yet."""
    tried = f"no model {name!r}: there is no such folder"
    try:
        from huggingface_hub import (
            constants,
            hf_hub_download,  # pyright: ignore[reportUnknownVariableType]
        )
        from huggingface_hub.utils import logging
    except ImportError as error:
        raise ModelError(
            f"{tried}, and Hugging Face ids need: pip install 'wirecut[engine]'"
        ) from error
    logging.set_verbosity_error()  # what went wrong is said below, once
    try:
        return Path(hf_hub_download(name, "config.json", local_files_only=True)).parent
    except (OSError, ValueError):
        pass  # not in the cache
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
