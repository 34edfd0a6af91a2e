"""`nvidia-smi topo -m` texts become fabrics; what is wrong with a text is named by its cell."""

from collections import Counter
from pathlib import Path

import pytest

from wirecut.errors import FabricError
from wirecut.fabric.catalogue import find_device
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.nvidia_topo import parse_nvidia_topo
from wirecut.fabric.saved import read_saved
from wirecut.fabric.topology import topology_to_fabric

CAPTURES = Path(__file__).parent / "captures"
TWO = """\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID
GPU0\t X \t{ab}\t0-15\t0\t\tN/A
GPU1\t{ba}\t X \t0-15\t0\t\tN/A
"""


def captured(name: str) -> str:
    return (CAPTURES / f"nvidia-{name}.txt").read_text()


def fabric(name: str, device: str | None) -> Fabric:
    return read_saved(captured(name), device)


def kinds(fabric: Fabric) -> Counter[tuple[str, str]]:
    return Counter((link.kind, link.path) for link in fabric.links)


def test_nvswitch_with_cards():
    box = fabric("h200-8gpu-nvswitch", "H200-SXM")
    assert kinds(box) == {("nvswitch", "NV18"): 28}
    assert box.islands == (tuple(range(8)),)
    assert [device.numa for device in box.devices] == [0] * 4 + [1] * 4
    (host,) = box.machines
    assert host.cores == tuple(range(256))
    assert len(host.numa[1]) == 128
    near = {nic.name: nic.near for nic in host.nics}
    assert near == {f"mlx5_{i}": (gpu,) for i, gpu in enumerate((2, 1, 7, 3, 0, 6, 4, 5))}


def test_gpus_are_known_from_nvidia_smi_l_and_cut_off_card_rows_are_no_harm():
    box = fabric("h100-8gpu-dgx", None)
    assert {device.name for device in box.devices} == {"H100-SXM"}
    assert len(box.machines[0].nics) == 12
    assert kinds(box) == {("nvswitch", "NV18"): 28}


def test_a_mesh_is_no_switch():
    box = fabric("h100-4gpu-mesh", "H100-SXM")
    assert kinds(box) == {("nvlink", "NV6"): 6}
    switch = fabric("h200-8gpu-nvswitch", "H200-SXM").links[0]
    assert box.links[0].bytes_per_s == pytest.approx(switch.bytes_per_s / 3)


def test_more_links_than_a_gpu_has_go_through_a_switch():
    """As in a DGX-2, of which the catalogue's V100 is not usually a part."""
    rows = ("GPU0 X NV6 NV6", "GPU1 NV6 X NV6", "GPU2 NV6 NV6 X")
    text = "\n".join(("GPU0 GPU1 GPU2", *rows))
    assert kinds(read_saved(text, "V100-SXM-32GB")) == {("nvswitch", "NV6"): 3}


def test_pairs_on_bridges():
    box = fabric("rtx3090-4gpu-pairs", "RTX-3090")
    assert box.islands == ((0, 1), (2, 3))
    assert kinds(box) == {("nvlink", "NV4"): 2, ("pcie4-nop2p", "SYS"): 4}
    assert {link.shares for link in box.links if link.path == "SYS"} == {"socket link"}


def test_pcie_over_two_sockets():
    box = fabric("l40s-8gpu-two-sockets", "L40S")
    assert kinds(box) == {("pcie4", "PIX"): 4, ("pcie4", "NODE"): 8, ("pcie4", "SYS"): 16}
    assert {(0, 1), (6, 7), (0, 1, 2, 3), (4, 5, 6, 7)} <= set(box.islands)
    assert box.link(0, 1).shares == ""
    assert box.link(4, 6).shares == "host bridge of NUMA node 1"
    near, middle, far = box.link(0, 1), box.link(0, 2), box.link(0, 4)
    assert near.latency_s < middle.latency_s < far.latency_s
    assert near.bytes_per_s > middle.bytes_per_s > far.bytes_per_s


def test_five_gpus_that_reach_each_other_through_host_memory():
    box = fabric("5gpu-pcie-two-nodes", "RTX-4090")
    assert kinds(box) == {
        ("pcie4-nop2p", "SYS"): 4,
        ("pcie4-nop2p", "PHB"): 2,
        ("pcie4-nop2p", "NODE"): 4,
    }
    assert box.islands == ((1, 2, 3, 4),)


def test_one_gpu():
    box = fabric("one-gpu", "RTX-4090")
    assert (len(box.devices), box.links, box.islands) == (1, (), ((0,),))


def test_mig_is_a_finding_and_its_gpu_reaches_nobody():
    box = fabric("a100-mig", None)
    assert [device.name for device in box.devices] == ["A100-SXM-40GB"] * 2
    assert box.link(0, 1).kind == "pcie4-nop2p"
    (finding,) = box.findings
    assert "MIG is on at GPU0" in finding.what
    assert finding.devices == (0,)


def test_a_tray_of_a_rack():
    box = fabric("gb200-tray", "GB200")
    assert kinds(box) == {("nvswitch", "NV18"): 6}
    assert [device.numa for device in box.devices] == [0, 0, 1, 1]


def test_a_gpu_whose_nvlinks_are_gone_is_outside_the_island():
    box = fabric("b200-one-off-nvlink", "B200-SXM")
    assert box.islands[0] == (0, 1, 3, 4, 5, 6, 7)
    assert box.link(0, 1).kind == "nvswitch"
    assert (box.link(0, 2).path, box.link(2, 7).path) == ("NODE", "SYS")


@pytest.mark.parametrize("name", ["v100-8gpu-cube", "dgx1-8gpu-cube"])
def test_hybrid_cube_mesh(name: str):
    box = fabric(name, "V100-SXM-16GB")
    assert kinds(box) == {("nvlink", "NV1"): 8, ("nvlink", "NV2"): 8, ("pcie3", "SYS"): 12}
    assert box.link(0, 3).bytes_per_s == pytest.approx(2 * box.link(0, 1).bytes_per_s)


def test_old_texts_name_cards_in_the_columns():
    nics = fabric("dgx1-8gpu-cube", "V100-SXM-16GB").machines[0].nics
    assert {nic.name: nic.near for nic in nics} == {
        "mlx5_0": (0, 1),
        "mlx5_2": (4, 5),
        "mlx5_1": (2, 3),
        "mlx5_3": (6, 7),
    }


def test_the_drivers_word_on_peer_to_peer_goes_before_the_catalogues():
    text = captured("rtx5090-2gpu-p2p")
    assert read_saved(text, "L40S").link(0, 1).kind == "pcie4-nop2p"
    assert read_saved(text.replace("GNS", "OK"), "RTX-4090").link(0, 1).kind == "pcie4"


@pytest.mark.parametrize("change", [str.expandtabs, lambda t: t.replace("\n", "\r\n")])
def test_tabs_spaces_and_line_ends_do_not_matter(change):
    text = captured("h200-8gpu-nvswitch")
    assert parse_nvidia_topo(change(text)) == parse_nvidia_topo(text)


def test_text_before_and_after_is_left_alone():
    text = captured("v100-8gpu-cube")
    around = f"root@box:/# nvidia-smi topo -m\n{text}\nGPU0 is the first\nroot@box:/# exit\n"
    assert parse_nvidia_topo(around) == parse_nvidia_topo(text)


def test_joined_column_names_are_parted():
    text = captured("h200-8gpu-nvswitch")
    assert parse_nvidia_topo(text.replace("NIC6\tNIC7\tCPU", "NIC6NIC7\tCPU")) == (
        parse_nvidia_topo(text)
    )


def test_the_device_is_asked_for():
    with pytest.raises(FabricError, match="does not say what GPU0 is: name it with --device"):
        fabric("one-gpu", None)
    with pytest.raises(FabricError, match="GPU0-GPU1 is NV18, but L40S has no such links"):
        fabric("h200-8gpu-nvswitch", "L40S")
    with pytest.raises(FabricError, match="18 links, but A100-SXM-80GB has 12"):
        fabric("h200-8gpu-nvswitch", "A100-SXM-80GB")
    with pytest.raises(FabricError, match="Nearest: "):
        fabric("one-gpu", "RTX-4091")


def test_a_device_given_by_hand():
    box = fabric("h100-4gpu-mesh", "24GB,936GB/s,71TFLOP/s")
    assert box.devices[0].source == "assumed"
    assert box.link(0, 1).kind == "nvlink"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no topology"),
        ("hello\nGPU0 GPU1\n", "no topology"),
        (TWO.format(ab="NV4", ba="NV2"), r"\(GPU0, GPU1\) is NV4, but \(GPU1, GPU0\) is NV2"),
        (TWO.format(ab="QPI", ba="QPI"), r"\(GPU0, GPU1\) is 'QPI': expected one of X, NV#, PIX"),
        (TWO.format(ab="NV0", ba="NV0"), "1 to 36 NVLinks, not 0"),
        (TWO.format(ab="NV99", ba="NV99"), "1 to 36 NVLinks, not 99"),
        (TWO.format(ab="X", ba="X"), r"\(GPU0, GPU1\) is X: expected X where row and column"),
        (TWO.format(ab="PIX", ba="PIX").replace(" X ", "PIX"), r"\(GPU0, GPU0\) is PIX"),
        (TWO.format(ab="PIX", ba="PIX").rsplit("\n", 2)[0], "no row for GPU1"),
        (
            TWO.format(ab="PIX", ba="PIX").replace("\t0-15\t0\t\tN/A", "").replace("PIX", ""),
            "square",
        ),
        (TWO.format(ab="PIX", ba="PIX") + "GPU2\tPIX\tPIX\n", "GPU2, but no column"),
        (TWO.format(ab="PIX", ba="PIX") + "GPU1\tPIX\t X \n", "GPU1 has two rows"),
        (
            TWO.format(ab="PIX", ba="PIX").replace("\tGPU0\tGPU1", "\tGPU0\tGPU0"),
            "GPU0 stands twice",
        ),
        (TWO.format(ab="PIX", ba="PIX") * 2, "2 topologies"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str):
    with pytest.raises(FabricError, match=message) as caught:
        parse_nvidia_topo(text)
    assert caught.value.exit_code == 2


def test_devices_of_different_kinds():
    topology = parse_nvidia_topo(TWO.format(ab="PHB", ba="PHB"))
    mixed = topology_to_fabric(topology, [find_device("L40S"), find_device("T4")])
    assert mixed.link(0, 1).kind == "pcie3"
    with pytest.raises(FabricError, match="1 kinds of device for 2 devices"):
        topology_to_fabric(topology, [find_device("L40S")])
