"""What a communication library makes of a wire, in few constants: its kernel's start, its steps,
its protocols, and which algorithms it has.

    library_of("custom_graph").barrier

Constants are multiples of the wire's own latency and bandwidth wherever they are the wire's, and
seconds where they are a kernel's. Fitted to measured collectives; benchmarks/collectives.md says
how well, also where a device had no part in the fit.
"""

from wirecut.errors import UsageError
from wirecut.facts import fact


@fact
class Library:
    """One library; custom_graph and custom_eager are the all-reduce kernels of vLLM and SGLang, in
    a CUDA graph and launched one by one.

    The latency L of a wire is that of the smallest send over it; the rate R of a rank is what it
    moves in one direction over all its wires of the kind.

    NCCL's protocols (its documentation of NCCL_PROTO): LL marks every word with a flag, starts at
    once and moves `ll_share` of R; Simple moves R, and fills its buffers first.
    """

    name: str
    algorithms: tuple[str, ...] = ("ring", "in-switch")
    start: float = 1.0  # kernel's start, in units of NCCL's on the same wire
    step: float = 0.155  # one more step inside a host, in L; the rest of L is the kernel's start
    ll_share: float = 0.41  # of R, in LL
    channel_bytes_per_s: float = 4.5e9  # LL to one peer of an all-to-all: one channel
    own_copies: float = 5.0  # a rank's own part is copied too: times it goes through its memory
    simple_s: float = 11e-6  # Simple over NVLink: start, beside L; it fills many buffers
    few_simple_s: float = 5.5e-6  # Simple over PCIe and to many peers: few buffers each
    simple_step_s: float = 1.8e-6  # Simple: one more step inside a host
    kernel_s: float = 6e-6  # of a network's L is the kernel's start; the rest is one step
    net_ll_share: float = 0.15  # LL over a network, of the rails together
    net_simple: float = 8.0  # Simple over a network: start, in messages of that network
    in_switch: float = 0.73  # of R: NVLS, whose adding is done in the switch
    in_switch_s: float = 30e-6  # its start, beside Simple's
    barrier: float = 0.6  # one barrier of a custom all-reduce, in L
    most_bytes: int = 8 << 20  # of a custom all-reduce
    nvlink_only: bool = False  # no custom all-reduce over PCIe, not even between two
    across_hosts: bool = False  # a custom all-reduce where NVSwitch joins hosts
    host_s: float = 0.0  # launched from the host, call by call: seconds at least
    copies: float = 0.0  # of the payload through the device's memory, beside the collective


NCCL = Library("nccl")
CUSTOM = ("ring", "in-switch", "one-shot", "two-shot")
LIBRARIES = {
    library.name: library
    for library in (
        NCCL,
        Library("custom_graph", CUSTOM),
        Library("custom_eager", CUSTOM, host_s=35e-6, copies=2.0),
        Library(
            "trtllm",
            ("ring", "in-switch", "one-shot"),
            barrier=0.52,
            nvlink_only=True,
            across_hosts=True,
        ),
        Library("rccl", ("ring",)),
        Library("oneccl", ("ring",), start=2.1),
        Library("shm", ()),
        Library("gloo", ()),
    )
}


def library_of(name: str) -> Library:
    """A library by its name. Raises UsageError that lists the names."""
    try:
        return LIBRARIES[name]
    except KeyError:
        raise UsageError(
            f"no communication library {name!r}; there are {', '.join(LIBRARIES)}"
        ) from None
