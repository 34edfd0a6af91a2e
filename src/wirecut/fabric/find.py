"""A fabric by what a person gives: a file, a typed text, or nothing for this machine.

find_fabric("2x8xL40S:pcie4:100gbe")
find_fabric("topo.txt", device="A100-SXM-80GB")
find_fabric("-")                                  # pasted on standard input
"""

import sys
from contextlib import suppress
from os import PathLike
from pathlib import Path

from wirecut.errors import FabricError
from wirecut.fabric.fabric import Fabric, load_fabric
from wirecut.files import cache_dir


def find_fabric(name: str | PathLike[str] | None, device: str | None = None) -> Fabric:
    """A fabric by its file or typed ("2x8xL40S:pcie4:100gbe"); None is this machine: its last
    probe, else one whose numbers are assumed.

    A file is a fabric.json, or what `nvidia-smi topo -m`, `amd-smi topology` or `rocm-smi
    --showtopo` printed, whose GPUs `device` names; "-" is such a text on standard input. A probe of
    another machine, or of another number of devices, is not taken. Raises FabricError.
    """
    if name is None:
        from wirecut.fabric.discover import discover  # drivers, which other fabrics do not need

        _no_device(device, "this machine")
        probed, here = cache_dir() / "fabric.json", discover()
        last = load_fabric(probed) if probed.is_file() else here
        same = (last.hosts, len(last.devices)) == (here.hosts, len(here.devices))
        return last if same else here
    path, text = Path(name), str(name)
    if not text.strip():
        raise FabricError("the fabric is empty: give a file, or a typed one such as 8xL40S")
    if text == "-":
        from wirecut.fabric.saved import MAX_CHARS, read_saved

        return read_saved(sys.stdin.read(MAX_CHARS), device)
    with suppress(OSError):  # a text too long to be a file's name
        if path.is_file():
            return _read_fabric(path, device)
        if path.exists():
            raise FabricError(
                f"fabric {path} is {'a folder' if path.is_dir() else 'no plain file'}, expected "
                "the file that `wirecut probe` writes"
            )
    from wirecut.fabric.typed import looks_typed, typed_fabric

    if looks_typed(text):
        _no_device(device, text)
        return typed_fabric(text)
    raise FabricError(
        f"no fabric {text[:200]!r}: expected the path of a fabric.json that `wirecut probe` "
        "writes or of a saved `nvidia-smi topo -m`, or a typed fabric such as 8xL40S or "
        "2x8xL40S:pcie4:100gbe"
    )


def _read_fabric(path: Path, device: str | None) -> Fabric:
    """A fabric.json, or a text that a vendor's tool printed."""
    from wirecut.fabric.saved import MAX_CHARS, looks_saved, read_saved

    saved = ""
    with suppress(OSError):  # `load_fabric` tells it better
        if path.stat().st_size <= MAX_CHARS:
            saved = path.read_text(encoding="utf-8", errors="replace")
    if not looks_saved(saved) and (path.suffix == ".json" or saved.lstrip().startswith("{")):
        fabric = load_fabric(path)
        _no_device(device, str(path))
        return fabric
    try:
        return read_saved(saved, device)
    except FabricError as error:
        raise FabricError(f"{path}: {error}") from error


def _no_device(device: str | None, fabric: str) -> None:
    if device is not None:
        raise FabricError(
            f"device {device!r} names the GPUs of a saved topology, and {fabric} has its own: "
            "leave it out"
        )
