"""What is wrong with a machine is found, named with its numbers, and nothing else is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fake_nvml import Gpu, bridged_3090s, h100_box
from wirecut.fabric.compare import diagnose_measured
from wirecut.fabric.diagnose import diagnose_gpus, diagnose_host
from wirecut.fabric.fabric import Device, Fabric, Finding, Link, Made
from wirecut.fabric.host import HostFacts, Nic
from wirecut.fabric.nvml import take_snapshot
from wirecut.fabric.saved import read_saved
from wirecut.fabric.traffic import read_nic_counters, wrong_nic
from wirecut.units import GIB, MIB

CAPTURES = Path(__file__).parent / "captures"
HOST = HostFacts("box", "EPYC", tuple(range(8)), 64 * GIB, shm_bytes=32 * GIB)


def found(change: Callable[[Gpu], object]) -> tuple[Finding, ...]:
    """What is found on an 8-GPU box after a change to its third GPU."""
    box = h100_box()
    change(box.gpus[2])
    return diagnose_gpus(take_snapshot(box))


def set_to(**values: object) -> Callable[[Gpu], object]:
    return lambda gpu: gpu.__dict__.update(values)


SWITCHES = h100_box().gpus[0].nvlinks


def test_a_healthy_box_has_nothing():
    assert found(set_to()) == ()


@pytest.mark.parametrize(
    ("change", "severity", "words"),
    [
        (set_to(width=8), "wrong", "trained at x8, expected x16"),
        (set_to(generation=3), "wrong", "at generation 3, expected 5"),
        (set_to(generation=1, state=8), "note", "at generation 1, expected 5 under load; idle"),
        (set_to(generation=1, reasons=1), "note", "idle GPUs lower it to save power"),
        (set_to(generation=4, generation_max=4), "note", "slot does PCIe generation 4, the GPU 5"),
        (set_to(nvlinks=[*SWITCHES[:17], (False, 0, "")]), "wrong", "NVLink 17 down, 17 of 18 up"),
        (set_to(nvlinks=[(False, 0, "")] * 18), "note", "none of its 18 NVLinks is up"),
        (set_to(power=(500_000, 700_000, 700_000)), "slow", "power cap 500 W, expected 700 W"),
        (set_to(reasons=0x4), "slow", "held down by power cap"),
        (set_to(reasons=0x60), "slow", "heat (software limit), heat (hardware limit)"),
        (set_to(domain=("ab" * 16, 1, 2)), "wrong", "domain is in progress, expected completed"),
        (set_to(mig=1), "wrong", "MIG is on at GPU2"),
    ],
)
def test_one_thing_wrong_is_one_finding(change, severity: str, words: str):
    (finding,) = found(change)
    assert finding.severity == severity
    assert words in finding.what
    assert "GPU2" in finding.what
    assert finding.advice
    assert finding.devices == (2,)


@pytest.mark.parametrize(
    ("status", "reason", "advice"),
    [
        (1, "chipset not supported", "PCIe switch"),
        (2, "GPU not supported", "GeForce"),
        (3, "topology not supported", "IOMMU"),
        (4, "disabled by registry key", "NVreg_RegistryDwords"),
        (5, "not supported", "ACS"),
        (6, "unknown", "topo -p2p r"),
    ],
)
def test_refused_peer_to_peer_names_pairs_reason_and_remedy(status: int, reason: str, advice: str):
    box = bridged_3090s()
    box.p2p = {(0, 1): (status, 0, 5), (1, 3): (0, status, 5)}
    (finding,) = diagnose_gpus(take_snapshot(box))
    assert f"refused between GPUs 0-1, 1-3: {reason}" in finding.what
    assert advice in finding.advice
    assert finding.devices == (0, 1, 3)


def test_a_saved_snapshot_tells_all_its_faults():
    fabric = read_saved((CAPTURES / "nvml-rtx3090-faults.json").read_text())
    text = "\n".join(finding.what for finding in fabric.findings)
    for words in (
        "GPU0: power cap 250 W, expected 350 W",
        "GPU1: PCIe link trained at x8, expected x16",
        "GPU2: PCIe link at generation 1, expected 4 under load",
        "GPU3: NVLink 3 down, 3 of 4 up",
        "peer-to-peer refused between GPUs 0-2, 0-3, 1-2, 1-3: GPU not supported",
    ):
        assert words in text
    assert fabric.link(2, 3).path == "NV3"


def test_a_healthy_host_has_nothing():
    assert diagnose_host(HOST, 8) == ()


@pytest.mark.parametrize(
    ("facts", "severity", "words"),
    [
        (replace(HOST, shm_bytes=64 * MIB), "wrong", "64.0 MiB, expected 640 MiB: 8 GPUs x 80.0"),
        (replace(HOST, cpu_limit=3.5), "slow", "3.5 cores' worth of time, expected 8 cores"),
        (replace(HOST, total_memory_bytes=128 * GIB), "note", "allows 64.0 GiB of 128 GiB"),
    ],
)
def test_limits_of_the_host(facts: HostFacts, severity: str, words: str):
    (finding,) = diagnose_host(facts, 8)
    assert (finding.severity, finding.devices) == (severity, ())
    assert words in finding.what


def test_one_rank_needs_no_shared_memory():
    assert diagnose_host(replace(HOST, shm_bytes=MIB), 1) == ()


def rails(*speeds: float | None, kind: str = "infiniband") -> HostFacts:
    """A host with one card for each speed in Gbit/s; None: down."""
    cards = (
        Nic(f"mlx5_{i}", kind, (speed or 400) * 1e9 / 8, speed is not None)
        for i, speed in enumerate(speeds)
    )
    return replace(HOST, nics=tuple(cards))


def test_a_card_that_is_down_or_trained_below_its_like():
    assert diagnose_host(rails(400, 400, 400), 8) == ()
    (down,) = diagnose_host(rails(400, None, 400), 8)
    assert (down.severity, "infiniband mlx5_1 down, 2 like it up" in down.what) == ("wrong", True)
    (low,) = diagnose_host(rails(400, 400, 200), 8)
    assert "mlx5_2 trained at 200 Gbit/s, 2 like it at 400 Gbit/s" in low.what
    (spare,) = diagnose_host(rails(25, None, kind="ethernet"), 8)
    assert spare.severity == "note"
    assert diagnose_host(rails(100, 1, kind="ethernet"), 8) == ()


def measured(rates: dict[tuple[int, int], float], **values: object) -> Fabric:
    """Four measured devices, two on each of two hosts; links of these GB/s."""
    devices = tuple(
        Device(i, f"h{i // 2}", "gpu", "L40S", 2**35, 8e11, {"bf16": 3e14}, 3e-6, "measured")
        for i in range(4)
    )
    link = Link(0, 1, "pcie4", 1e-5, 1e9, "measured", 0.02)
    links = tuple(
        replace(link, a=a, b=b, bytes_per_s=rate * 1e9, **values) for (a, b), rate in rates.items()
    )
    return Fabric(devices, links, (), Made("", "", ""))


ALL = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def test_like_wires_have_nothing_to_tell():
    assert diagnose_measured(measured(dict.fromkeys(ALL, 20))) == ()
    assert diagnose_measured(measured({(0, 2): 20, (0, 3): 20, (1, 2): 17.2})) == ()


def test_a_slow_wire_is_named_with_its_like():
    (finding,) = diagnose_measured(measured({(0, 2): 20, (0, 3): 20, (1, 2): 20, (1, 3): 12}))
    assert "wire 1-3 (PCIe 4): 12.0 GB/s, its like 20.0 GB/s: 40% slower" in finding.what
    assert finding.devices == (1, 3)


def test_of_two_wires_the_slower_is_named():
    (finding,) = diagnose_measured(measured({(0, 1): 20, (2, 3): 12}))
    assert finding.devices == (2, 3)


def test_a_device_with_slow_wires_only_is_the_culprit():
    rates = {(0, 2): 20, (0, 3): 9, (1, 2): 20, (1, 3): 9}
    more = measured({**rates, (0, 1): 20})
    (finding,) = diagnose_measured(replace(more, devices=tuple(
        replace(d, host="one") for d in more.devices)))  # fmt: skip
    assert finding.devices == (3,)
    assert "device 3: all 2 of its wires" in finding.what


def test_wires_inside_a_host_are_not_like_those_between_hosts():
    assert diagnose_measured(measured({(0, 1): 20, (2, 3): 20, (0, 2): 1, (1, 3): 1})) == ()


def test_a_noisy_wire_and_an_assumed_one_are_left_alone():
    rates = {(0, 2): 20.0, (0, 3): 20.0, (1, 2): 12.0}
    assert diagnose_measured(measured(rates, spread=0.5)) == ()
    assert diagnose_measured(measured(rates, source="assumed")) == ()


def test_a_slow_device_is_named():
    fabric = measured({})
    slow = replace(fabric.devices[2], bytes_per_s=6e11, flops_per_s={"bf16": 1.5e14})
    devices = (*fabric.devices[:2], slow, fabric.devices[3])
    memory, matrix = diagnose_measured(replace(fabric, devices=devices))
    assert "device 2: memory 600 GB/s, 3 like it 800 GB/s: 25% slower" in memory.what
    assert "bf16 150 TFLOP/s" in matrix.what
    other = replace(slow, name="T4")
    assert diagnose_measured(replace(fabric, devices=(*devices[:2], other, devices[3]))) == ()


TWO_CARDS = replace(
    HOST,
    nics=(
        Nic("eno1", "ethernet", 1e9 / 8, True),
        Nic("ens3", "ethernet", 100e9 / 8, True),
        Nic("ens4", "ethernet", 200e9 / 8, False),
        Nic("bond0", "ethernet", 300e9 / 8, True, virtual=True),
    ),
)


def test_traffic_by_the_wrong_card():
    finding = wrong_nic({"eno1": 5}, {"eno1": 5 * GIB, "ens3": 1000, "bond0": 6 * GIB}, TWO_CARDS)
    assert finding is not None
    assert "left by eno1 (1 Gbit/s; 5.00 GiB sent), expected by ens3" in finding.what
    assert "NCCL_SOCKET_IFNAME=ens3 and GLOO_SOCKET_IFNAME=ens3" in finding.advice


def test_traffic_by_the_right_card_or_none():
    assert wrong_nic({}, {"ens3": 5 * GIB, "eno1": 1000}, TWO_CARDS) is None
    assert wrong_nic({"eno1": 7}, {"eno1": 1000}, TWO_CARDS) is None
    unknown = replace(TWO_CARDS, nics=(Nic("eth0", "ethernet", None, True), TWO_CARDS.nics[1]))
    assert wrong_nic({}, {"eth0": GIB}, unknown) is None
    assert wrong_nic({}, {"eth0": GIB}, HOST) is None


def test_traffic_beside_infiniband():
    cards = (*TWO_CARDS.nics, Nic("mlx5_0", "infiniband", 50e9, True, netdev="ibs1"))
    finding = wrong_nic({}, {"ens3": GIB}, replace(TWO_CARDS, nics=cards))
    assert finding is not None
    assert "NCCL_IB_HCA=mlx5_0" in finding.advice
    assert "GLOO_SOCKET_IFNAME=ibs1" in finding.advice
    assert wrong_nic({}, {"mlx5_0": GIB}, replace(TWO_CARDS, nics=cards)) is None


def test_counters_of_cards(tmp_path: Path):
    for name, text in {
        "net/eth0/statistics/tx_bytes": "123\n",
        "net/lo/statistics/tx_bytes": "9",
        "net/odd/statistics/tx_bytes": "what",
        "infiniband/mlx5_0/ports/1/counters/port_xmit_data": "100",
        "infiniband/mlx5_0/ports/2/counters/port_xmit_data": "5",
    }.items():
        path = tmp_path / "sys/class" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert read_nic_counters(tmp_path) == {"eth0": 123, "mlx5_0": 420}
    assert all(count >= 0 for count in read_nic_counters().values())
