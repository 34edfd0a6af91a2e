"""What lies in a checkpoint's safetensors files, from their headers alone. Reads no weights, and
imports neither torch nor safetensors.

    check_checkpoint(folder, spec).tensors["lm_head.weight"]     # StoredTensor(file, "BF16", ...)

A safetensors file is 8 little-endian bytes with the header's length, the header as JSON (name ->
dtype, shape and where its bytes lie), then those bytes.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from wirecut.errors import ModelError
from wirecut.facts import fact
from wirecut.spec.fields import Fields
from wirecut.spec.hf import read_json
from wirecut.spec.model import ModelSpec
from wirecut.spec.packing import Part, packings
from wirecut.spec.runnable import why_not_run
from wirecut.spec.stored import Place, Places
from wirecut.spec.tensor import Tensor

ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
LONGEST_HEADER = 100_000_000  # the format's own limit
ELEMENT_BYTES = {"F32": 4, "BF16": 2, "F16": 2}  # the dtypes that the engine reads


@fact
class StoredTensor:
    """Where a tensor is, and as what. `dtype` is the format's name for it, as in BF16."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


@fact
class Checkpoint:
    """The tensors of a model folder by name."""

    folder: Path
    tensors: dict[str, StoredTensor]


class _Header(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def check_checkpoint(folder: Path, spec: ModelSpec) -> Checkpoint:
    """The checkpoint in `folder`, which holds every tensor that `spec` asks for in its shape and a
    dtype that the engine reads, and no further layers; other tensors do no harm. Of what the
    engine does not run only the headers are checked. Raises ModelError.
    """
    found = read_checkpoint(folder)
    if why_not_run(spec):
        return found
    places, missing, wanted = Places(spec, found.tensors), list[str](), 0
    for tensor, expert in places.all():
        wanted += 1
        if tensor.format:
            missing += _check_packed(found.tensors, places, spec.weights.method, tensor, expert)
        elif place := places.of(tensor, expert):
            _check_stored(found.tensors[place.name], place)
        else:
            missing.append(_name_of(tensor, expert))
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} of the {wanted} tensors that its "
            f"config.json asks for: {_some(missing)}"
        )
    if beyond := _beyond(folder, spec, found):
        raise ModelError(
            f"{folder} has tensors of layers that its config.json does not count, which says "
            f"{spec.num_layers}: {_some(beyond)}"
        )
    return found


def _beyond(folder: Path, spec: ModelSpec, found: Checkpoint) -> list[str]:
    """Stored tensors of layers behind the last one, but for those that predict further tokens."""
    path = folder / "config.json"
    config = Fields(read_json(path) if path.is_file() else {}, str(path))
    more = config.optional("num_nextn_predict_layers") or 0
    layer = re.compile(re.escape(spec.prefix) + r"layers\.([0-9]{1,9})\.")
    places = ((name, layer.match(name)) for name in found.tensors)
    return [name for name, at in places if at and int(at[1]) >= spec.num_layers + more]


def _name_of(tensor: Tensor, expert: int | None) -> str:
    return tensor.name if expert is None else tensor.name.format(expert=expert)


def _check_packed(
    stored: Mapping[str, StoredTensor],
    places: Places,
    method: str,
    tensor: Tensor,
    expert: int | None,
) -> list[str]:
    """The parts of a quantised linear that are missing. Raises ModelError for those that are there
    and cannot be parts of it.
    """
    packed = places.packed(tensor, expert)
    packing = packed.packing if packed else packings(method, tensor.format)[0]
    module, missing = _name_of(tensor, expert).removesuffix(".weight"), list[str]()
    for part in packing.parts:
        if place := places.part(part, tensor, expert):
            _check_part(stored[place.name], place, part, tensor)
        elif not part.optional:
            missing.append(f"{module}.{part.name}")
    return missing


def _check_part(stored: StoredTensor, place: Place, part: Part, tensor: Tensor) -> None:
    if not part.holds(stored.shape, place.shape):
        raise ModelError(
            f"{stored.file}: {place.name} has shape {list(stored.shape)}, config.json makes it "
            f"{list(part.shape_of(place.shape))}: {tensor.format} of {list(place.shape)}"
        )
    if stored.dtype not in part.dtypes:
        raise ModelError(
            f"{stored.file}: {place.name} is stored as {stored.dtype}, expected "
            f"{' or '.join(part.dtypes)}"
        )


def _check_stored(stored: StoredTensor, place: Place) -> None:
    if stored.shape != place.shape:
        raise ModelError(
            f"{stored.file}: {place.name} has shape {list(stored.shape)}, "
            f"config.json makes it {list(place.shape)}"
        )
    if stored.dtype not in ELEMENT_BYTES:
        raise ModelError(
            f"{stored.file}: {place.name} is stored as {stored.dtype}, "
            f"wirecut reads {', '.join(ELEMENT_BYTES)}"
        )


def read_checkpoint(folder: Path) -> Checkpoint:
    """The tensors in `folder`: of its one file, or of the files that its index names. Raises
    ModelError.
    """
    if (folder / ONE_FILE).exists():
        return Checkpoint(folder, _read_header(folder / ONE_FILE))
    if not (folder / INDEX).exists():
        raise ModelError(f"{folder} has no {ONE_FILE} and no {INDEX}{_what_is_there(folder)}")
    placed = _read_index(folder / INDEX)
    headers = {name: _read_header(folder / name) for name in sorted(set(placed.values()))}
    for tensor, name in placed.items():
        if tensor not in headers[name]:
            raise ModelError(f"{folder / INDEX} places {tensor} in {name}, which does not hold it")
    return Checkpoint(folder, {tensor: headers[name][tensor] for tensor, name in placed.items()})


def _what_is_there(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    shards = [name for name in names if name.endswith(".safetensors")]
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    if shards:
        return f"; it holds {_some(shards)}, which need the index: download that too"
    if pickles:
        return (
            f"; it holds {_some(pickles)}, and pickles are not read: convert them with "
            "transformers' save_pretrained, which writes safetensors"
        )
    return f"; it holds {_some(names)}" if names else "; it is empty or no folder"


def _some(names: list[str]) -> str:
    """'a, b, c and 4 more'."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _read_index(path: Path) -> Mapping[str, str]:
    try:
        placed = msgspec.json.decode(path.read_bytes(), type=_Index).weight_map
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged ({error}): download it again") from error
    for name in set(placed.values()):
        if not name or "\0" in name or Path(name).name != name:
            raise ModelError(f"{path} names the file {name!r}, which is not beside it")
        if not (path.parent / name).is_file():
            raise ModelError(f"{path} names {name}, which is not there: download it too")
    return placed


def _read_header(path: Path) -> dict[str, StoredTensor]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            header = file.read(length) if length <= LONGEST_HEADER else b""
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    if start == b"version ":
        raise ModelError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull`")
    if length > LONGEST_HEADER:
        raise ModelError(
            f"{path} is not a safetensors file: its header would be {length} bytes long, the "
            f"format allows {LONGEST_HEADER}"
        )
    if size < 8 + length:
        raise ModelError(
            f"{path} is cut short: it has {size} bytes, its header alone says {8 + length}: "
            "download it again"
        )
    tensors, data_bytes = _parse_header(header, path)
    if size != 8 + length + data_bytes:
        what = "is cut short" if size < 8 + length + data_bytes else "is damaged"
        raise ModelError(
            f"{path} {what}: its header says {8 + length + data_bytes} bytes, the file has {size}: "
            "download it again"
        )
    return tensors


def _parse_header(header: bytes, path: Path) -> tuple[dict[str, StoredTensor], int]:
    """The tensors, and how many bytes they fill together."""
    tensors: dict[str, StoredTensor] = {}
    ranges: list[tuple[int, int]] = []
    try:
        for name, raw in msgspec.json.decode(header, type=dict[str, msgspec.Raw]).items():
            if name == "__metadata__":
                continue
            facts = msgspec.json.decode(raw, type=_Header)
            first, last = facts.data_offsets
            element = ELEMENT_BYTES.get(facts.dtype)
            if min(facts.shape, default=0) < 0 or not 0 <= first <= last:
                raise ValueError(f"shape {facts.shape} and bytes {first} to {last} make no sense")
            if element and math.prod(facts.shape) * element != last - first:
                raise ValueError(f"{name}: {last - first} bytes for {facts.shape} of {facts.dtype}")
            tensors[name] = StoredTensor(path, facts.dtype, facts.shape)
            ranges.append(facts.data_offsets)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} has a damaged header ({error}): download it again") from error
    end = 0
    for first, last in sorted(ranges):
        if first != end:
            raise ModelError(
                f"{path} has a damaged header: byte {end} of its data is not claimed once"
            )
        end = last
    return tensors, end
