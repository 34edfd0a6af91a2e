"""Stands in for the module `pynvml`: the same function names, answers from plain facts.

`Gpu()` is one GPU; `FakeNvml([Gpu(), Gpu()])` is what `take_snapshot` is given.
"""

import ctypes
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """What every failed call raises."""


class FabricInfo(ctypes.Structure):
    """As `c_nvmlGpuFabricInfo_v2_t` of nvidia-ml-py."""

    _fields_ = [
        ("version", ctypes.c_uint),
        ("clusterUuid", ctypes.c_uint8 * 16),
        ("status", ctypes.c_uint),
        ("cliqueId", ctypes.c_uint32),
        ("state", ctypes.c_uint8),
        ("healthMask", ctypes.c_uint32),
    ]


@dataclass
class Gpu:
    """`nvlinks`: (active, remote type, remote bus) of each link."""

    name: str = "NVIDIA H100 80GB HBM3"
    bus: str = "00000000:19:00.0"
    numa: int = 0
    width: int = 16
    width_max: int = 16
    generation: int = 5
    generation_max: int = 5
    generation_gpu: int = 5
    state: int = 0
    reasons: int = 0
    power: tuple[int, int, int] = (700_000, 700_000, 700_000)  # cap, default, maximum, in mW
    mig: int | None = 0
    nvlinks: list[tuple[bool, int, str]] = field(default_factory=list)
    domain: tuple[str, int, int] | None = None  # cluster, clique, state
    cant: tuple[str, ...] = ()  # functions that this GPU does not support


class FakeNvml:
    """Every function that `take_snapshot` calls. `p2p[a, b]` are (read, write, nvlink) statuses."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2
    NVML_FEATURE_ENABLED = 1
    NVML_NVLINK_MAX_LINKS = 36
    c_nvmlGpuFabricInfoV_t = FabricInfo

    def __init__(
        self,
        gpus: list[Gpu],
        ancestor: dict[tuple[int, int], int] | None = None,
        p2p: dict[tuple[int, int], tuple[int, int, int]] | None = None,
    ):
        self.gpus, self.ancestor, self.p2p = gpus, ancestor or {}, p2p or {}

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.65.06"

    def __getattr__(self, function: str) -> Any:
        if not function.startswith("nvmlDeviceGet"):
            raise AttributeError(function)
        name = function.removeprefix("nvmlDeviceGet")
        answer = getattr(self, f"_{name}", None)
        if answer is None:
            raise AttributeError(function)

        def call(handle: int, *arguments: Any) -> Any:
            if name in self.gpus[handle].cant:
                raise NVMLError("Not Supported")
            return answer(handle, *arguments)

        return call

    def _Name(self, i: int) -> str:
        return self.gpus[i].name

    def _UUID(self, i: int) -> bytes:
        return f"GPU-{i}".encode()

    def _PciInfo(self, i: int) -> Any:
        return SimpleNamespace(busId=self.gpus[i].bus)

    def _MemoryInfo(self, i: int) -> Any:
        return SimpleNamespace(total=80 * 2**30)

    def _ClockInfo(self, i: int, kind: int) -> int:
        return {1: 1980, 2: 2619}[kind]

    _MaxClockInfo = _ClockInfo

    def _PowerManagementLimit(self, i: int) -> int:
        return self.gpus[i].power[0]

    def _PowerManagementDefaultLimit(self, i: int) -> int:
        return self.gpus[i].power[1]

    def _PowerManagementLimitConstraints(self, i: int) -> list[int]:
        return [200_000, self.gpus[i].power[2]]

    def _CurrPcieLinkGeneration(self, i: int) -> int:
        return self.gpus[i].generation

    def _MaxPcieLinkGeneration(self, i: int) -> int:
        return self.gpus[i].generation_max

    def _GpuMaxPcieLinkGeneration(self, i: int) -> int:
        return self.gpus[i].generation_gpu

    def _CurrPcieLinkWidth(self, i: int) -> int:
        return self.gpus[i].width

    def _MaxPcieLinkWidth(self, i: int) -> int:
        return self.gpus[i].width_max

    def _MemoryAffinity(self, i: int, size: int, scope: int) -> list[int]:
        return [1 << self.gpus[i].numa] + [0] * (size - 1)

    def _CpuAffinity(self, i: int, size: int) -> list[int]:
        return [0xF << 8 * self.gpus[i].numa] + [0] * (size - 1)

    def _PerformanceState(self, i: int) -> int:
        return self.gpus[i].state

    def _CurrentClocksEventReasons(self, i: int) -> int:
        return self.gpus[i].reasons

    def _CudaComputeCapability(self, i: int) -> tuple[int, int]:
        return (9, 0)

    def _NumGpuCores(self, i: int) -> int:
        return 16896

    def _MemoryBusWidth(self, i: int) -> int:
        return 5120

    def _MigMode(self, i: int) -> list[int]:
        mode = self.gpus[i].mig
        if mode is None:
            raise NVMLError("Not Supported")
        return [mode, mode]

    def _NvLinkState(self, i: int, link: int) -> int:
        if link >= len(self.gpus[i].nvlinks):
            raise NVMLError("Invalid Argument")
        return int(self.gpus[i].nvlinks[link][0])

    def _NvLinkVersion(self, i: int, link: int) -> int:
        return 6

    def _NvLinkRemoteDeviceType(self, i: int, link: int) -> int:
        return self.gpus[i].nvlinks[link][1]

    def _NvLinkRemotePciInfo(self, i: int, link: int) -> Any:
        return SimpleNamespace(busId=self.gpus[i].nvlinks[link][2])

    def _FieldValues(self, i: int, fields: list[Any]) -> list[Any]:
        return [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=26562)) for _ in fields]

    def _GpuFabricInfoV(self, i: int, reference: Any) -> int:
        domain = self.gpus[i].domain
        if domain is None:
            raise NVMLError("Not Supported")
        info = reference._obj
        info.clusterUuid[:] = bytes.fromhex(domain[0])
        info.cliqueId, info.state = domain[1], domain[2]
        return 0

    def _TopologyCommonAncestor(self, a: int, b: int) -> int:
        return self.ancestor.get((a, b), 50)

    def _P2PStatus(self, a: int, b: int, way: int) -> int:
        statuses = self.p2p.get((a, b), (0, 0, 0))
        return statuses[way] if way < 3 else 0


def h100_box(count: int = 8) -> FakeNvml:
    """GPUs on NVSwitches, 18 links each."""
    switches = [(True, 2, f"00000000:0{5 + link // 5}:00.0") for link in range(18)]
    gpus = [Gpu(bus=f"00000000:{i:02X}:00.0", numa=i // 4, nvlinks=switches) for i in range(count)]
    return FakeNvml(gpus, {(a, b): 40 for a in range(4) for b in range(a + 1, 4)})


def gb200_tray() -> FakeNvml:
    """One tray of four: links to a rack's switches, which the tray does not see."""
    box = h100_box(4)
    for gpu in box.gpus:
        gpu.name = "NVIDIA GB200"
        gpu.nvlinks = [(True, 2, "00000000:00:00.0")] * 18
        gpu.domain = ("c0ffee00c0ffee00c0ffee00c0ffee00", 3, 3)
    return box


def bridged_3090s() -> FakeNvml:
    """Four on two bridges, on two sockets, with what goes wrong in such boxes."""
    gpus = [
        Gpu(
            name="NVIDIA GeForce RTX 3090",
            bus=f"00000000:{i + 1:02X}:00.0",
            numa=i // 2,
            generation=4,
            generation_max=4,
            generation_gpu=4,
            power=(350_000, 350_000, 400_000),
            mig=None,
        )
        for i in range(4)
    ]
    for i, gpu in enumerate(gpus):
        gpu.nvlinks = [(True, 0, gpus[i ^ 1].bus)] * 4
    p2p = {(a, b): (2, 2, 5) for a in range(4) for b in range(a + 1, 4)}
    p2p[0, 1] = p2p[2, 3] = (0, 0, 0)
    return FakeNvml(gpus, {(0, 1): 30, (2, 3): 30}, p2p)
