"""Fabrics by file, by text, or from a saved topology."""

import pytest

from wirecut.api import find_fabric
from wirecut.errors import FabricError
from wirecut.fabric.fabric import load_fabric, save_fabric
from wirecut.fabric.typed import typed_fabric


def test_it_goes_through_its_file(tmp_path):
    fabric = typed_fabric("2x4xA100-PCIe:nvlink-pairs:ib-200x2")
    save_fabric(fabric, tmp_path / "fabric.json")
    assert load_fabric(tmp_path / "fabric.json") == fabric


def test_find_fabric_takes_a_file_or_a_typed_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(find_fabric("8xL40S").devices) == 8
    save_fabric(typed_fabric("3xL40S"), tmp_path / "8xL40S")
    assert len(find_fabric("8xL40S").devices) == 3  # a file of that name comes first
    for name, says in (
        ("missing.json", "or a typed fabric such as 8xL40S"),
        ("8xL40Z", "no device 'L40Z'"),
        (".", "is a folder"),
        ("8x" + "y" * 5000, "characters"),
        ("y" * 5000, "no fabric"),
        ("a\0b", "no fabric"),
    ):
        with pytest.raises(FabricError, match=says):
            find_fabric(name)


TOPO = """
\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity
GPU0\t X \tNV12\t0-31\t0
GPU1\tNV12\t X \t0-31\t0
"""


def test_find_fabric_takes_a_saved_topology_with_its_device(tmp_path):
    saved = tmp_path / "topo.txt"
    saved.write_text(TOPO)
    fabric = find_fabric(saved, device="A100-SXM-80GB")
    assert [d.name for d in fabric.devices] == ["A100-SXM-80GB"] * 2
    assert fabric.link(0, 1).path == "NV12"
    with pytest.raises(FabricError, match=r"topo\.txt: .*device"):
        find_fabric(saved)
    with pytest.raises(FabricError, match="no device 'L40Z'"):
        find_fabric(saved, device="L40Z")


def test_a_device_is_refused_where_the_fabric_has_its_own(tmp_path):
    save_fabric(typed_fabric("2xL40S"), tmp_path / "fabric.json")
    for name in (None, "8xL40S", tmp_path / "fabric.json"):
        with pytest.raises(FabricError, match="leave it out"):
            find_fabric(name, device="L40S")
