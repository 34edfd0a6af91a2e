"""The bundled catalogue of models: configurations that planning reads without a network.

    find_bundled("meta-llama/Llama-3.1-70B-Instruct").parameters      # 70553706496
    find_bundled("llama-3.1-70b").name                                # short names do

Files are in `catalogue/`, with `catalogue.toml` for aliases and sources.
"""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from wirecut.errors import ModelError
from wirecut.spec.hf import from_config, read_json
from wirecut.spec.model import ModelSpec

FOLDER = Path(__file__).parent / "catalogue"


def find_bundled(name: str) -> ModelSpec | None:
    """The model by its id, or by the part of it behind the owner in any case; None when there is no
    such model. Raises ModelError when a short name fits models that differ.
    """
    if spec := _exact(name):
        return spec
    short = name.lower()
    fitting = [one for one in catalogue_names() if short in (one.lower(), _short(one))]
    made_of = {_origin(one) for one in fitting}
    if len(made_of) > 1:
        raise ModelError(f"the name {name!r} fits {', '.join(fitting)}: give one of these")
    return _exact(fitting[0]) if fitting else None


def catalogue_names() -> tuple[str, ...]:
    """The ids of all bundled models, aliases among them, in order."""
    index = _index()
    return tuple(sorted({*_files(), *index["aliases"], *index["quantized"]}, key=str.lower))


def published_parameters() -> dict[str, int]:
    """Published numbers of parameters, by id, where they are known."""
    return dict(_index()["parameters"])


def _short(name: str) -> str:
    return name.rpartition("/")[2].lower()


def _exact(name: str) -> ModelSpec | None:
    if "/" not in name:
        return None
    if name in _files():
        return _read(name, name, None)
    made_of = _origin(name)
    return _read(name, *made_of) if made_of else None


def _origin(name: str) -> tuple[str, str | None] | None:
    """The id with a file of its own that `name` is made of, and the scheme it is stored in."""
    index = _index()
    if name in index["quantized"]:
        base, scheme = index["quantized"][name]
        return base, scheme
    base = index["aliases"].get(name, name)
    return (base, None) if base in _files() else None


def _read(name: str, base: str, scheme: str | None) -> ModelSpec:
    config = read_json(_file(base))
    if scheme is not None:
        config["quantization_config"] = _index()["schemes"][scheme]
    return from_config(config, name=name, where=f"the bundled {base}")


def _file(name: str) -> Path:
    return FOLDER / f"{name.replace('/', '--')}.json"


@cache
def _files() -> frozenset[str]:
    return frozenset(path.stem.replace("--", "/", 1) for path in FOLDER.glob("*.json"))


@cache
def _index() -> dict[str, Any]:
    return tomllib.loads((FOLDER / "catalogue.toml").read_text(encoding="utf-8"))
