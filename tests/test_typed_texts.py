"""Texts of typed fabrics: errors that point at the part, and none that crashes."""

import re
import time
from contextlib import suppress

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fabrics import check_whole
from wirecut.errors import FabricError
from wirecut.fabric.catalogue import all_devices, find_device
from wirecut.fabric.typed import looks_typed, typed_fabric
from wirecut.fabric.typed_links import INTRA_WORDS, why_not


def test_spaces_and_case_do_not_matter():
    first, second = (
        typed_fabric("2x8xL40S:pcie4:100gbe"),
        typed_fabric(" 2 X 8x l40s : PCIe4 :100GbE"),
    )
    assert (first.devices, first.links) == (second.devices, second.links)


@pytest.mark.parametrize(
    ("text", "under", "says"),
    [
        ("2x8xL40X:pcie4:100gbe", "L40X", "no device 'L40X'. Nearest: L40, L40S, L4"),
        ("8xL40S:pci4", "pci4", "Expected nvswitch, nvlink-mesh"),
        ("8xL40S:100gbe", "100gbe", "goes between nodes"),
        ("8xL40S:pcie4:100gbe", "100gbe", "there is one node"),
        ("8xL40S:nvswitch", "nvswitch", "L40S has no NVLink: try pcie4"),
        ("8xMI300X:nvlink-mesh", "nvlink-mesh", "MI300X has no NVLink: try pcie5"),
        ("8xH100-SXM:xgmi", "xgmi", "H100-SXM has no XGMI"),
        ("8xA100-PCIe:nvswitch", "nvswitch", "joined by bridges"),
        ("4xA100-PCIe:nvlink-mesh", "nvlink-mesh", "at most 2"),
        ("16xV100-SXM-32GB:nvlink-cube", "nvlink-cube", "at most 8"),
        ("9xMI300X", "9xMI300X", "at most 8"),
        ("3xH100-NVL:nvlink-pairs", "nvlink-pairs", "3 devices make no pairs"),
        ("2x8xL40S:pcie4:ib", "ib", "no wire between nodes"),
        ("2x8xL40S:pcie4:pcie4", "pcie4", "no wire between nodes"),
        ("2x8xL40S:pcie4:ib-0", "ib-0", "expected more than 0"),
        ("2x8xL40S:pcie4:ib--5", "ib--5", "no wire between nodes"),
        ("2x8xL40S:pcie4:10001gbe", "10001gbe", "at most 10000"),
        ("2x8xL40S:pcie4:ib-200x0", "ib-200x0", "0 rails"),
        ("2x8xL40S:pcie4:ib-200x65", "ib-200x65", "65 rails"),
        ("2x4xL40S:pcie4:mnnvl", "mnnvl", "needs it inside them"),
        ("0xL40S", "0", "at least 1"),
        ("2x0xL40S", "0", "at least 1"),
        ("32769xL40S", "32769", "32769 devices, expected at most 32768"),
        ("4097x8xL40S", "4097", "32776 devices"),
        ("8x", "", "the device is missing"),
        ("L40S", "L40S", "expected a count"),
        ("xL40S", "xL40S", "expected a count"),
        ("-8xL40S", "-8xL40S", "expected a count"),
        ("2x8xL40S::100gbe", "", "a wire is missing here"),
        ("2x8xL40S:pcie4:", "", "a wire is missing here"),
        ("2x8xL40S:pcie4:100gbe:x", "x", "a fourth part"),
        ("2x2x2xL40S", "2xL40S", "no device '2xL40S'"),
        ("8x24GB,936GB/s:pcie4", "24GB,936GB/s", "2 parts, expected 3"),
    ],
)
def test_an_error_points_at_the_part(text, under, says):
    with pytest.raises(FabricError) as raised:
        typed_fabric(text)
    first, shown, pointer = str(raised.value).splitlines()
    assert first == f"fabric {text!r} is not understood:"
    assert says in pointer
    start = pointer.index("^")
    length = len(pointer) - len(pointer.lstrip(" ^")) - start
    marked = shown[start : start + length].rstrip()
    assert marked.startswith(under or ":") or (not under and marked in ("", ":"))
    assert pointer[start:].startswith("^" * max(1, len(under)) + " ")


def test_empty_and_endless_texts():
    for text in ("", " ", "\n"):
        with pytest.raises(FabricError, match="is empty, expected"):
            typed_fabric(text)
    with pytest.raises(FabricError, match="5001 characters"):
        typed_fabric("8" * 5000 + "x")


PIECES = """
2x 8x 0x x L40S H100-SXM 24GB, 936GB/s, 1TF : pcie4 -nop2p nvswitch nvlink-pairs nvlink-cube ib-
roce- gbe 100 1e9 x8 mnnvl
"""


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=40),
        st.lists(st.sampled_from(PIECES.split()), max_size=9).map("".join),
    )
)
def test_no_text_does_worse_than_an_error(text):
    assume(not re.search(r"\d{3,}x", text))  # hundreds of devices are made once, below
    assert looks_typed(text) in (True, False)
    with suppress(FabricError):
        fabric = typed_fabric(text)
        check_whole(fabric, len(fabric.hosts), len(fabric.devices) // len(fabric.hosts))


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 8),
    st.sampled_from(sorted(all_devices())),
    st.sampled_from(INTRA_WORDS),
    st.sampled_from(["ib-400", "ib-200x8", "roce-100x2", "10gbe", "2.5gbe"]),
)
def test_whatever_fits_the_device_becomes_a_whole_fabric(nodes, gpus, name, wire, network):
    text = f"{nodes}x{gpus}x{name}:{wire}" + (f":{network}" if nodes > 1 else "")
    if gpus > 1 and why_not(wire, find_device(name), gpus):
        with pytest.raises(FabricError):
            typed_fabric(text)
    else:
        check_whole(typed_fabric(text), nodes, gpus)


@pytest.mark.parametrize("name", sorted(all_devices()))
def test_every_device_has_usual_wires_for_one_two_and_eight(name):
    for gpus in (1, 2, 8):
        if find_device(name).name in ("MI300A",) and gpus == 8:  # four sockets at most
            continue
        check_whole(typed_fabric(f"{gpus}x{name}"), 1, gpus)


def test_large_fabrics_are_made_quickly():
    begin = time.perf_counter()
    typed_fabric("8x8xH100-SXM:nvswitch:ib-400x8")
    few = time.perf_counter() - begin
    begin = time.perf_counter()
    fabric = typed_fabric("128x8xH100-SXM:nvswitch:ib-400x8")
    many = time.perf_counter() - begin
    assert len(fabric.links) == 128 * 28
    assert few < 0.25  # 20 ms on an idle machine
    assert many < 2  # 0.1 s on an idle machine
