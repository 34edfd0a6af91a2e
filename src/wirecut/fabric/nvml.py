"""What NVIDIA's management library (NVML) says of the GPUs here, kept so that it can be saved.

    snapshot = read_nvml()              # None: no NVIDIA driver here
    msgspec.json.encode(snapshot)       # what `--fabric` reads back on another machine

Needs the package `nvidia-ml-py` (extra `gpu`). What a GPU or a driver does not answer stays None.
"""

import ctypes
from collections.abc import Callable
from importlib import import_module
from itertools import combinations
from typing import Any

import msgspec

FORMAT = "wirecut-nvml-1"
IDLE_STATE = 8  # NVML: P0 is the fastest performance state, P8 and above are idle ones


class NvLink(msgspec.Struct, frozen=True):
    """One NVLink. `remote`: "gpu", "switch", "cpu" or "unknown", as a virtual machine hides it;
    `remote_bus` its PCI address. `bytes_per_s` is one direction's line rate.
    """

    link: int
    active: bool
    version: int | None = None
    remote: str = "unknown"
    remote_bus: str = ""
    bytes_per_s: float | None = None


class NvlinkDomain(msgspec.Struct, frozen=True):
    """The NVLink domain that a GPU belongs to, over all its hosts; `clique` is a part of it whose
    GPUs reach each other. `state`: "completed" once the fabric manager has let it in.
    """

    cluster: str
    clique: int
    state: str


class NvmlGpu(msgspec.Struct, frozen=True):
    """One GPU. Clocks in MHz, power in W; `_max` is what it can reach. `pcie_generation_max` is
    what GPU and slot can do together, `pcie_generation_gpu` the GPU alone. `state` is its
    performance state, 0 the fastest. `idle`: it slowed down for want of work.
    """

    index: int
    name: str
    uuid: str
    bus: str
    memory_bytes: int
    sm_clock: int | None = None
    sm_clock_max: int | None = None
    memory_clock: int | None = None
    memory_clock_max: int | None = None
    power_limit: float | None = None
    power_default: float | None = None
    power_max: float | None = None
    pcie_generation: int | None = None
    pcie_generation_max: int | None = None
    pcie_generation_gpu: int | None = None
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    numa: int | None = None
    cpus: tuple[int, ...] = ()
    state: int | None = None
    idle: bool = False
    slowed_by: tuple[str, ...] = ()
    mig: bool | None = None
    compute: tuple[int, int] | None = None
    num_cores: int | None = None
    memory_bus_bits: int | None = None
    nvlinks: tuple[NvLink, ...] = ()
    domain: NvlinkDomain | None = None


class NvmlPair(msgspec.Struct, frozen=True):
    """Two GPUs by place: their nearest common ancestor as `nvidia-smi topo -m` codes it, and what
    the driver says of peer-to-peer: "ok" or the reason why not, by way.
    """

    a: int
    b: int
    ancestor: str | None = None
    p2p: dict[str, str] = {}


class NvmlSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All GPUs of one host at one moment."""

    format: str = FORMAT
    driver: str
    host: str = ""
    gpus: tuple[NvmlGpu, ...]
    pairs: tuple[NvmlPair, ...] = ()


ANCESTORS = {0: "PIX", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}
REMOTES = {0: "gpu", 1: "cpu", 2: "switch"}
P2P_WAYS = {"read": 0, "write": 1, "nvlink": 2, "atomics": 3, "pcie": 4}
P2P_STATUS = {
    0: "ok",
    1: "chipset not supported",
    2: "GPU not supported",
    3: "topology not supported",
    4: "disabled by registry key",
    5: "not supported",
}
FABRIC_STATES = {0: "not supported", 1: "not started", 2: "in progress", 3: "completed"}
IDLE_REASON = 0x1
SLOWED_BY = {
    0x2: "a clock setting",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "heat (software limit)",
    0x40: "heat (hardware limit)",
    0x80: "power brake",
}
LINK_SPEED_FIELD = 164  # NVML_FI_DEV_NVLINK_GET_SPEED, in MB/s, by link (Hopper on)
COMMON_SPEED_FIELD = 90  # NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON, of all links


def read_nvml(host: str = "") -> NvmlSnapshot | None:
    """This host's GPUs; None without the package, without a driver, and without a GPU."""
    try:
        nvml: Any = import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        snapshot = take_snapshot(nvml, host)
    finally:
        nvml.nvmlShutdown()
    return snapshot if snapshot.gpus else None


def take_snapshot(nvml: Any, host: str = "") -> NvmlSnapshot:
    """Ask an initialized `pynvml` (or what has its functions) everything there is to plan with."""
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    driver = _ask(nvml, "nvmlSystemGetDriverVersion")
    return NvmlSnapshot(
        driver=_text(driver),
        host=host,
        gpus=tuple(_gpu(nvml, i, handle) for i, handle in enumerate(handles)),
        pairs=tuple(
            _pair(nvml, a, b, handles[a], handles[b])
            for a, b in combinations(range(len(handles)), 2)
        ),
    )


def _ask(nvml: Any, function: str, *arguments: Any) -> Any:
    """The answer, or None where GPU, driver or package do not know the question."""
    try:
        return getattr(nvml, function)(*arguments)
    except (nvml.NVMLError, AttributeError):
        return None


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


def _gpu(nvml: Any, index: int, handle: Any) -> NvmlGpu:
    def ask(function: str, *arguments: Any) -> Any:
        return _ask(nvml, f"nvmlDeviceGet{function}", handle, *arguments)

    def watts(function: str) -> float | None:
        value = ask(function)
        return None if value is None else value / 1000

    sm, memory = nvml.NVML_CLOCK_SM, nvml.NVML_CLOCK_MEM
    pci, memory_info = ask("PciInfo"), ask("MemoryInfo")
    limits, mode = ask("PowerManagementLimitConstraints"), ask("MigMode")
    reasons = ask("CurrentClocksEventReasons") or ask("CurrentClocksThrottleReasons") or 0
    state, compute = ask("PerformanceState"), ask("CudaComputeCapability")
    return NvmlGpu(
        index=index,
        name=_text(ask("Name")),
        uuid=_text(ask("UUID")),
        bus=_bus(pci),
        memory_bytes=int(memory_info.total) if memory_info else 0,
        sm_clock=ask("ClockInfo", sm),
        sm_clock_max=ask("MaxClockInfo", sm),
        memory_clock=ask("ClockInfo", memory),
        memory_clock_max=ask("MaxClockInfo", memory),
        power_limit=watts("PowerManagementLimit"),
        power_default=watts("PowerManagementDefaultLimit"),
        power_max=limits[1] / 1000 if limits else None,
        pcie_generation=ask("CurrPcieLinkGeneration"),
        pcie_generation_max=ask("MaxPcieLinkGeneration"),
        pcie_generation_gpu=ask("GpuMaxPcieLinkGeneration"),
        pcie_width=ask("CurrPcieLinkWidth"),
        pcie_width_max=ask("MaxPcieLinkWidth"),
        numa=_numa(ask("MemoryAffinity", 16, 0)),
        cpus=_bits(ask("CpuAffinity", 64)),
        state=state if isinstance(state, int) and state < 32 else None,  # 32: unknown
        idle=bool(reasons & IDLE_REASON) or (isinstance(state, int) and IDLE_STATE <= state < 32),
        slowed_by=tuple(words for bit, words in SLOWED_BY.items() if reasons & bit),
        mig=None if mode is None else mode[0] == 1,
        compute=None if compute is None else (compute[0], compute[1]),
        num_cores=ask("NumGpuCores"),
        memory_bus_bits=ask("MemoryBusWidth"),
        nvlinks=_nvlinks(nvml, ask),
        domain=_domain(nvml, handle),
    )


def _bits(words: Any) -> tuple[int, ...]:
    """Set bits of an array of 64-bit words."""
    if words is None:
        return ()
    return tuple(
        64 * i + bit for i, word in enumerate(words) for bit in range(64) if int(word) >> bit & 1
    )


def _numa(nodes: Any) -> int | None:
    """The nearest node with memory; on Grace the GPU's own ones follow the CPU's."""
    return next(iter(_bits(nodes)), None)


def _bus(pci: Any) -> str:
    return _text(pci.busId).lower() if pci else ""


def _nvlinks(nvml: Any, ask: Callable[..., Any]) -> tuple[NvLink, ...]:
    links: list[NvLink] = []
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        active = ask("NvLinkState", link)
        if active is None:
            continue
        remote: int = ask("NvLinkRemoteDeviceType", link) if active else -1
        speed = _field(ask, (LINK_SPEED_FIELD, link)) or _field(ask, COMMON_SPEED_FIELD)
        links.append(
            NvLink(
                link=link,
                active=active == nvml.NVML_FEATURE_ENABLED,
                version=ask("NvLinkVersion", link),
                remote=REMOTES.get(remote, "unknown"),
                remote_bus=_bus(ask("NvLinkRemotePciInfo", link)) if active else "",
                bytes_per_s=speed * 1e6 if speed and active else None,
            )
        )
    return tuple(links)


def _field(ask: Callable[..., Any], field: int | tuple[int, int]) -> int:
    values = ask("FieldValues", [field])
    return int(values[0].value.uiVal) if values and values[0].nvmlReturn == 0 else 0


def _domain(nvml: Any, handle: Any) -> NvlinkDomain | None:
    """None where there is no fabric manager's domain, as on a box without NVSwitch."""
    try:
        info = nvml.c_nvmlGpuFabricInfoV_t()
        nvml.nvmlDeviceGetGpuFabricInfoV(handle, ctypes.byref(info))
    except (nvml.NVMLError, AttributeError):
        return None
    state = FABRIC_STATES.get(info.state, "unknown")
    cluster = bytes(info.clusterUuid).hex()
    return None if info.state == 0 else NvlinkDomain(cluster, int(info.cliqueId), state)


def _pair(nvml: Any, a: int, b: int, first: Any, second: Any) -> NvmlPair:
    ancestor = _ask(nvml, "nvmlDeviceGetTopologyCommonAncestor", first, second)
    statuses = {
        way: _ask(nvml, "nvmlDeviceGetP2PStatus", first, second, index)
        for way, index in P2P_WAYS.items()
    }
    return NvmlPair(
        a=a,
        b=b,
        ancestor=ANCESTORS.get(ancestor) if ancestor is not None else None,
        p2p={
            way: P2P_STATUS.get(status, "unknown")
            for way, status in statuses.items()
            if status is not None
        },
    )
