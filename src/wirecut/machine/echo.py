"""Whether bytes come through between two ranks, asked over a plain socket: who does not answer?

    with Echo("10.0.0.1") as echo:                # answers others while this rank does other things
        silent(peers={2: echo.address}, wait_s=5)  # {rank: why} of those that do not answer

A collective that hangs names no wire: it waits for everyone. This asks each peer by itself.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Mapping

Address = tuple[str, int]
FIRST_BYTES, MOST_BYTES = 64 << 10, 64 << 20  # of a rate's first and last round
RATE_S = 0.15  # a round that takes so long tells the rate
PAYLOAD_BYTES = 4096  # more than one packet: a wire that carries only small ones is cut too


class Echo:
    """Sends back what it is sent, from a thread of its own, until closed."""

    def __init__(self, host: str) -> None:
        self._listener = socket.create_server((host, 0), backlog=128)
        self.address: Address = (host, self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True, name="echo").start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed: the end
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=_answer, args=(connection,), daemon=True).start()

    def close(self) -> None:
        """Answer no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # closing alone leaves one accept waiting
        self._listener.close()

    def __enter__(self) -> "Echo":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _answer(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        connection.settimeout(30)
        while data := connection.recv(65536):
            connection.sendall(data)


def silent(peers: Mapping[int, Address], *, wait_s: float) -> dict[int, str]:
    """Of `peers` (rank: address), those that did not send back what they were sent, and why.

    All are asked at the same time; returns after `wait_s` at the latest.
    """
    found: dict[int, str] = {}

    def ask(rank: int, address: Address) -> None:
        reason = _ask(address, time.monotonic() + wait_s)
        if reason is not None:
            found[rank] = reason

    threads = [threading.Thread(target=ask, args=peer, daemon=True) for peer in peers.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return dict(sorted(found.items()))


def echo_rate(address: Address, source: str, *, wait_s: float) -> float | None:
    """Bytes/s that come back from an echo at `address` when asked from `source`, both directions
    busy; None when nothing comes through within `wait_s`.
    """
    deadline = time.monotonic() + wait_s
    try:
        with socket.create_connection(address, wait_s, (source, 0)) as connection:
            size, rate = FIRST_BYTES, 0.0
            while size <= MOST_BYTES:
                seconds = _round(connection, size, deadline)
                rate = size / seconds
                if seconds > RATE_S:
                    break
                size *= 4
            return rate
    except OSError:
        return None


def _round(connection: socket.socket, size: int, deadline: float) -> float:
    """Seconds until `size` bytes have come back. Raises OSError after the deadline."""
    begin, got = time.monotonic(), 0
    sender = threading.Thread(target=_send_all, args=(connection, bytes(size)), daemon=True)
    sender.start()
    try:
        while got < size:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            part = connection.recv(1 << 20)
            if not part:
                raise ConnectionError("closed")
            got += len(part)
    except OSError:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)  # ends the sender too
        raise
    finally:
        sender.join()
    return time.monotonic() - begin


def _send_all(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(data)


def _ask(address: Address, deadline: float) -> str | None:
    """None when the echo came back whole, else what happened."""
    sent, got = os.urandom(PAYLOAD_BYTES), b""
    try:
        with socket.create_connection(address, timeout=deadline - time.monotonic()) as connection:
            connection.sendall(sent)
            while len(got) < len(sent):
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                part = connection.recv(65536)
                if not part:
                    return f"closed after {len(got)} of {len(sent)} bytes"
                got += part
    except TimeoutError:
        return f"{len(got)} of {len(sent)} bytes came back in time"
    except OSError as error:
        return error.strerror or str(error)
    return None if got == sent else "other bytes came back than were sent"
