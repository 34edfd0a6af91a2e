"""Which network card hosts should talk through: every card that leads to the other host is tried.

    finding = slower_card("a", "eth0", {"eth0": 12e6, "eth1": 110e6})

A card's nominal speed says little (a virtual one has none, a switch port may be slower): what
counts is what comes through.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Interface
from typing import Protocol

import msgspec

from wirecut.fabric.diagnose import SLOWER
from wirecut.fabric.fabric import Finding
from wirecut.machine.echo import Address, Echo, echo_rate
from wirecut.machine.nic import cards
from wirecut.machine.world import MEET_S
from wirecut.units import show_rate

TRY_S = 2.0  # what one card gets
MOST_HOSTS = 8  # hosts that try theirs: the first ones

_decode_cards = msgspec.msgpack.Decoder(dict[str, tuple[str, Address]]).decode


class Line(Protocol):
    """How ranks tell one another things; see `machine.sockets.Line`."""

    rank: int

    def tell(self, what: str, content: bytes) -> None: ...

    def hear(self, what: str, rank: int, timeout_s: float) -> bytes: ...


def try_cards(
    line: Line, firsts: Sequence[int], *, host: str, used: str | None
) -> tuple[Finding, ...]:
    """What to say of the card that this host uses. Every host tries its ways to the first one,
    which tries those to the second. Collective among `firsts`, the first rank of each host.
    """
    mine = cards()
    with ExitStack() as open_echoes:
        echoes = {name: open_echoes.enter_context(Echo(str(mine[name].ip))) for name in mine}
        told = {name: (str(mine[name].network), echoes[name].address) for name in mine}
        line.tell("cards", msgspec.msgpack.encode(told))
        finding = None
        for turn in firsts[:MOST_HOSTS]:  # one after the other: they would share a wire
            if turn != line.rank:
                line.hear("cards tried", turn, MEET_S)
                continue
            if len(mine) > 1:
                other = firsts[1] if turn == firsts[0] else firsts[0]
                theirs = _decode_cards(line.hear("cards", other, MEET_S))
                finding = slower_card(host, used, card_rates(mine, theirs))
            line.tell("cards tried", b"1")
    return (finding,) if finding else ()


def card_rates(
    mine: Mapping[str, IPv4Interface], theirs: Mapping[str, tuple[str, Address]]
) -> dict[str, float]:
    """Bytes/s through each of this host's cards to a card of another host in the same subnet.

    `theirs` are the other host's cards: network ("10.0.0.0/24") and where an echo listens on it.
    """
    found: dict[str, float] = {}
    for name, card in mine.items():
        for network, address in theirs.values():
            if network == str(card.network) and address[0] != str(card.ip):
                rate = echo_rate(address, str(card.ip), wait_s=TRY_S)
                if rate is not None:
                    found[name] = max(rate, found.get(name, 0.0))
    return found


def slower_card(host: str, used: str | None, rates: Mapping[str, float]) -> Finding | None:
    """What to say when the card in use is slower than another one that leads the same way."""
    if used is None or used not in rates:
        return None
    best = max(rates, key=lambda name: rates[name])
    if rates[best] <= (1 + SLOWER) * rates[used]:
        return None
    return Finding(
        "wrong",
        f"{host}: traffic to other hosts leaves by {used}, where {show_rate(rates[used])} come "
        f"through; {best} leads there too, and carries {show_rate(rates[best])}",
        f"set GLOO_SOCKET_IFNAME={best} and NCCL_SOCKET_IFNAME={best} on every host",
    )
