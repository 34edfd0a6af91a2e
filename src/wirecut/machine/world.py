"""Which ranks there are, on which hosts, and how they meet.

    launched(os.environ)        # this process's place under torchrun; None: it was started alone

Imports no torch.
"""

from collections.abc import Mapping

import msgspec

from wirecut.errors import UsageError
from wirecut.facts import fact

MEET_S = 60.0  # hosts do not start in the same second, and torch takes a while to import


@fact
class RankHost:
    """A host that this process can start ranks on. `prefix` goes before the command that starts its
    host process (`nsenter ...` for a network namespace); `address` is where other hosts reach it;
    `cores` are those of this machine that its ranks may use, empty for any.
    """

    name: str
    prefix: tuple[str, ...] = ()
    address: str = "127.0.0.1"
    cores: tuple[int, ...] = ()


class World(msgspec.Struct, frozen=True):
    """The job as one host sees it: `first` to `first + local - 1` of `size` ranks are here.

    `master` is (address, port) of rank 0's store; None: all ranks share this host's memory, and
    the port goes through that.
    """

    first: int
    local: int
    size: int
    master: tuple[str, int] | None = None


@fact
class Launched:
    """This process as its launcher numbers it."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    master: tuple[str, int]

    @property
    def world(self) -> World:
        """The job, with the ranks that the first process of this host starts. Where that is all
        of them, they meet in memory, and need no address.
        """
        first, everyone = self.rank - self.local_rank, self.local_size == self.size
        return World(first, self.local_size, self.size, None if everyone else self.master)


def launched(environ: Mapping[str, str]) -> Launched | None:
    """What torchrun, or a launcher that sets its variables, says of this process.

    None where RANK and WORLD_SIZE are not set. Raises UsageError for variables that contradict one
    another.
    """
    if "RANK" not in environ or "WORLD_SIZE" not in environ:
        return None
    rank, size = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
    alone = None if size > 1 else 0  # of several, which share a host has to be said
    local_rank = _number(environ, "LOCAL_RANK", alone)
    local_size = _number(environ, "LOCAL_WORLD_SIZE", None if size > 1 else 1)
    if not (local_rank < local_size <= size and local_rank <= rank < size):
        raise UsageError(
            f"the launcher's variables contradict one another: RANK {rank} of WORLD_SIZE {size}, "
            f"LOCAL_RANK {local_rank} of LOCAL_WORLD_SIZE {local_size}"
        )
    if local_size == size:
        return Launched(rank, size, local_rank, local_size, ("", 0))
    address = environ.get("MASTER_ADDR", "")
    if not address:
        raise UsageError(f"RANK and WORLD_SIZE {size} are set but MASTER_ADDR is not: use torchrun")
    return Launched(rank, size, local_rank, local_size, (address, _number(environ, "MASTER_PORT")))


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environ.get(name, "" if default is None else str(default))
    if not text.isdecimal() or int(text) > 10**6:
        raise UsageError(
            f"the launcher's variable {name} is {text!r}, expected a whole number: torchrun sets it"
        )
    return int(text)
