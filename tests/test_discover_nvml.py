"""NVML's answers become a snapshot, and a snapshot a fabric with what is wrong with it."""

import subprocess
import sys
from itertools import combinations

import msgspec
import pytest

from fake_nvml import FakeNvml, Gpu, bridged_3090s, gb200_tray, h100_box
from wirecut.errors import FabricError
from wirecut.fabric import nvml
from wirecut.fabric.catalogue import find_device
from wirecut.fabric.fabric import Fabric
from wirecut.fabric.host import HostFacts
from wirecut.fabric.nvml import NvmlSnapshot, read_nvml, take_snapshot
from wirecut.fabric.nvml_fabric import fabric_from_nvml, nvlink_domain, visible_gpus
from wirecut.fabric.saved import read_saved

HOST = HostFacts("box", "EPYC", tuple(range(32)), 2**38)


def fabric_of(fake: FakeNvml) -> Fabric:
    return fabric_from_nvml(take_snapshot(fake), HOST)


def test_eight_gpus_on_nvswitches():
    fabric = fabric_of(h100_box())
    assert [d.name for d in fabric.devices] == ["H100-SXM"] * 8
    assert [d.numa for d in fabric.devices] == [0] * 4 + [1] * 4
    assert fabric.devices[5].cpus == (8, 9, 10, 11)
    assert {(k.kind, k.path) for k in fabric.links} == {("nvswitch", "NV18")}
    assert len(fabric.links) == 28
    assert fabric.findings == ()
    assert fabric.machines[0].host == "box"


def test_bridges_join_pairs_and_geforce_drivers_refuse_the_rest():
    fabric = fabric_of(bridged_3090s())
    assert fabric.islands == ((0, 1), (2, 3))
    assert (fabric.link(0, 1).kind, fabric.link(0, 1).path) == ("nvlink", "NV4")
    assert (fabric.link(0, 2).kind, fabric.link(0, 2).path) == ("pcie4-nop2p", "SYS")
    (refused,) = fabric.findings
    assert "0-2, 0-3, 1-2, 1-3: GPU not supported" in refused.what


def test_a_bridge_joins_only_its_two_ends():
    rig = bridged_3090s()
    rig.p2p = {}  # the driver refuses nothing
    fabric = fabric_of(rig)
    assert fabric.islands == ((0, 1), (2, 3))
    assert (fabric.link(0, 2).kind, fabric.findings) == ("pcie4", ())


def test_a_tray_names_the_domain_that_it_shares_with_other_trays():
    snapshot = take_snapshot(gb200_tray())
    assert nvlink_domain(snapshot) == "c0ffee00c0ffee00c0ffee00c0ffee00.3"
    fabric = fabric_from_nvml(snapshot, HOST)
    assert fabric.machines[0].nvlink_domain == nvlink_domain(snapshot)
    assert any("NVLink domain" in note for note in fabric.made.notes)
    assert {k.kind for k in fabric.links} == {"nvswitch"}


def test_a_box_with_switches_of_its_own_shares_no_domain():
    box = h100_box()
    for gpu in box.gpus:
        gpu.domain = ("00" * 16, 0, 3)
    assert nvlink_domain(take_snapshot(box)) == ""


def test_a_virtual_machine_hides_its_switches():
    box = h100_box(2)
    for gpu in box.gpus:
        gpu.nvlinks = [(True, 255, "")] * 18
    assert fabric_of(box).link(0, 1).kind == "nvswitch"
    box.p2p = {(0, 1): (0, 0, 5)}  # the links are there, but the fabric manager is not
    assert fabric_of(box).link(0, 1).kind == "pcie5"
    for gpu in box.gpus:
        gpu.nvlinks = h100_box().gpus[0].nvlinks
    assert fabric_of(box).link(0, 1).kind == "pcie5"


def test_a_narrow_slot_makes_the_wire_slower():
    full, half = bridged_3090s(), bridged_3090s()
    for fake in (full, half):
        fake.p2p = {}
        for gpu in fake.gpus:
            gpu.nvlinks = []
    half.gpus[1].width = 8
    rate = fabric_of(full).link(0, 1).bytes_per_s
    assert fabric_of(half).link(0, 1).bytes_per_s == pytest.approx(rate / 2)
    assert fabric_of(half).link(2, 3).bytes_per_s == rate


def test_mig_reaches_nobody():
    box = h100_box(2)
    box.gpus[1].mig = 1
    fabric = fabric_of(box)
    assert fabric.link(0, 1).kind == "pcie5-nop2p"
    assert any("MIG is on at GPU1" in finding.what for finding in fabric.findings)


def test_what_a_gpu_does_not_answer_stays_unknown():
    cant = ("UUID", "MigMode", "NumGpuCores", "PowerManagementLimit", "CurrentClocksEventReasons")
    snapshot = take_snapshot(FakeNvml([Gpu(cant=cant), Gpu(bus="00000000:2B:00.0", cant=cant)]))
    gpu = snapshot.gpus[0]
    assert (gpu.uuid, gpu.mig, gpu.num_cores, gpu.power_limit) == ("", None, None, None)
    assert fabric_from_nvml(snapshot, HOST).link(0, 1).kind == "pcie5"


def test_a_gpu_that_the_catalogue_does_not_know_gets_rates_from_its_clocks():
    box = h100_box(2)
    for gpu in box.gpus:
        gpu.name = "NVIDIA Q9000 Prototype"
    device = fabric_of(box).devices[0]
    assert device.source == "assumed"
    assert device.bytes_per_s == pytest.approx(3.35e12, rel=0.01)  # as H100-SXM's datasheet
    assert device.flops_per_s["fp32"] == pytest.approx(67e12, rel=0.01)
    told = fabric_from_nvml(take_snapshot(box), HOST, find_device("H200-SXM"))
    assert (told.devices[0].name, told.devices[0].source) == ("H200-SXM", "datasheet")


@pytest.mark.parametrize("box", [h100_box, gb200_tray, bridged_3090s])
def test_a_snapshot_comes_back_from_its_file(box):
    snapshot = take_snapshot(box(), "there")
    text = msgspec.json.encode(snapshot).decode()
    assert msgspec.json.decode(text, type=NvmlSnapshot) == snapshot
    fabric = read_saved(text)
    assert fabric.hosts == ("there",)
    assert fabric.links == fabric_of(box()).links


def test_a_damaged_snapshot_is_named():
    text = msgspec.json.encode(take_snapshot(h100_box(2))).decode()
    with pytest.raises(FabricError, match="not an NVML snapshot"):
        read_saved(text[:-40])
    with pytest.raises(FabricError, match="no GPU"):
        read_saved(msgspec.json.encode(NvmlSnapshot(driver="1", gpus=())).decode())


def test_no_driver_no_snapshot(monkeypatch: pytest.MonkeyPatch):
    class NoDriver(FakeNvml):
        def nvmlInit(self):
            raise self.NVMLError("Driver Not Loaded")

    def missing(name: str):
        raise ImportError(name)

    monkeypatch.setattr(nvml, "import_module", lambda name: NoDriver([]))
    assert read_nvml() is None
    monkeypatch.setattr(nvml, "import_module", missing)
    assert read_nvml() is None


def test_every_name_that_is_asked_for_is_in_the_package():
    pynvml = pytest.importorskip("pynvml")
    for name in vars(FakeNvml):
        if name.startswith("_") and name[1:2].isupper():
            assert callable(getattr(pynvml, f"nvmlDeviceGet{name[1:]}")), name
    assert pynvml.NVML_FI_DEV_NVLINK_GET_SPEED == nvml.LINK_SPEED_FIELD
    assert pynvml.NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON == nvml.COMMON_SPEED_FIELD
    assert pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH == 2
    assert pynvml.NVML_TOPOLOGY_SYSTEM == 50
    assert pynvml.NVML_P2P_STATUS_DISABLED_BY_REGKEY == 4
    assert pynvml.NVML_GPU_FABRIC_STATE_COMPLETED == 3
    assert pynvml.nvmlClocksEventReasonGpuIdle == nvml.IDLE_REASON
    for constant in ("NVML_CLOCK_SM", "NVML_CLOCK_MEM", "NVML_FEATURE_ENABLED"):
        assert getattr(pynvml, constant) == getattr(FakeNvml, constant)
    info = pynvml.c_nvmlGpuFabricInfoV_t()
    assert all(hasattr(info, field) for field in ("clusterUuid", "cliqueId", "state"))


def test_importing_discovery_does_not_import_nvml():
    look = "import sys, wirecut.fabric.discover; sys.exit('pynvml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look]).returncode == 0


@pytest.mark.parametrize(
    ("setting", "chosen"),
    [
        (None, [0, 1, 2, 3]),
        ("2,3", [2, 3]),
        ("3, 0", [3, 0]),
        ("GPU-2", [2]),
        ("1,9,2", [1]),
        ("1,1", [1]),
        ("GPU-", []),
        ("", []),
    ],
)
def test_gpus_that_cuda_sees(setting: str | None, chosen: list[int]):
    snapshot = visible_gpus(take_snapshot(bridged_3090s()), setting)
    assert [gpu.index for gpu in snapshot.gpus] == chosen
    count = len(chosen)
    assert [(p.a, p.b) for p in snapshot.pairs] == list(combinations(range(count), 2))
    if chosen == [2, 3]:
        fabric = fabric_from_nvml(snapshot, HOST)
        assert fabric.link(0, 1).kind == "nvlink"
        assert [device.index for device in fabric.devices] == [0, 1]
    if chosen == [3, 0]:
        assert snapshot.pairs[0].p2p["read"] == "GPU not supported"


def test_pairs_of_a_snapshot_may_be_missing():
    snapshot = take_snapshot(h100_box(3))
    fabric = fabric_from_nvml(msgspec.structs.replace(snapshot, pairs=()), HOST)
    assert {(k.a, k.b) for k in fabric.links} == set(combinations(range(3), 2))
