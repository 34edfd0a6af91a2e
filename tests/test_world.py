"""What a launcher says of this process, and whether bytes come through between two sockets."""

import socket
import threading

import pytest

from wirecut.errors import UsageError
from wirecut.fabric.cards import slower_card
from wirecut.machine.echo import Echo, echo_rate, silent
from wirecut.machine.nic import address_facing, address_towards, cards, interface_of
from wirecut.machine.world import World, launched

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
}


def test_torchruns_variables() -> None:
    place = launched(TORCHRUN)
    assert place is not None
    assert place.world == World(first=4, local=4, size=8, master=("10.0.0.1", 29500))


def test_started_alone() -> None:
    assert launched({}) is None
    assert launched({"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1"}) is None


def test_ranks_of_one_host_meet_in_its_memory() -> None:
    here = TORCHRUN | {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost"}
    place = launched(here)
    assert place is not None
    assert place.world == World(first=0, local=4, size=4, master=None)
    alone = launched({"RANK": "0", "WORLD_SIZE": "1"})
    assert alone is not None
    assert alone.world == World(first=0, local=1, size=1, master=None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"RANK": "8"}, "RANK 8 of WORLD_SIZE 8"),
        ({"LOCAL_WORLD_SIZE": ""}, "LOCAL_WORLD_SIZE is '', expected"),
        ({"LOCAL_RANK": "4"}, "LOCAL_RANK 4 of LOCAL_WORLD_SIZE 4"),
        ({"RANK": "x"}, "RANK is 'x', expected a whole number"),
        ({"MASTER_PORT": "-1"}, "MASTER_PORT is '-1'"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not"),
    ],
)
def test_variables_that_make_no_sense_are_named(changes: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        launched(TORCHRUN | changes)


def test_an_echo_answers_several_at_once() -> None:
    with Echo("127.0.0.1") as echo:
        assert silent(dict.fromkeys(range(8), echo.address), wait_s=5) == {}


def test_peers_that_do_not_answer_are_named_with_the_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, Echo("127.0.0.1") as echo:
        closed = socket.create_server(("127.0.0.1", 0))
        nobody = closed.getsockname()
        closed.close()
        peers = {3: echo.address, 4: mute.getsockname(), 5: nobody}
        found = silent(peers, wait_s=0.3)
    assert found == {4: "0 of 4096 bytes came back in time", 5: "Connection refused"}


def test_other_bytes_than_were_sent_are_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as liar:

        def lie() -> None:
            connection, _ = liar.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(bytes(4096))

        thread = threading.Thread(target=lie)
        thread.start()
        assert silent({1: liar.getsockname()}, wait_s=5) == {
            1: "other bytes came back than were sent"
        }
        thread.join()


def test_the_interface_that_leads_to_this_host_is_loopback() -> None:
    assert address_facing("127.0.0.1") == "127.0.0.1"
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.7") is None


def test_the_rate_of_an_echo() -> None:
    with Echo("127.0.0.1") as echo:
        rate = echo_rate(echo.address, "127.0.0.1", wait_s=5)
        assert rate is not None
        assert rate > 10e6
    assert echo_rate(echo.address, "127.0.0.1", wait_s=0.5) is None


def test_a_card_is_told_of_only_when_another_is_faster() -> None:
    found = slower_card("a", "eth0", {"eth0": 12e6, "eth1": 110e6})
    assert found is not None
    assert "leaves by eth0, where 12.0 MB/s come through; eth1 leads there too" in found.what
    assert "GLOO_SOCKET_IFNAME=eth1" in found.advice
    assert slower_card("a", "eth1", {"eth0": 12e6, "eth1": 110e6}) is None
    assert slower_card("a", "eth0", {"eth0": 100e6, "eth1": 110e6}) is None
    assert slower_card("a", "ib0", {"eth0": 100e6}) is None


def test_a_masters_own_name_may_be_loopback_to_itself() -> None:
    """Debian's 127.0.1.1: others reach this host by a card's address, if it has one."""
    address = address_towards("127.0.1.1")
    assert address in {str(card.ip) for card in cards().values()} or not cards()
