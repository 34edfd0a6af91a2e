"""Messages between two ranks over a TCP connection of their own, sent and received by the ranks
themselves.

    pipes = Pipes(line, address="10.0.0.1")
    pipe = pipes.open(2, "hand-off")          # rank 2 opens rank 0's end in the same order
    pipe.send(x)
    pipe.receive(out)

Gloo hands a message over only when its receiver asks, and by a thread that has to take the core
from a rank that computes: a pipeline's hand-offs then wait for milliseconds. Here the kernel holds
what was sent, and nothing waits but the receiver.
"""

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Iterator

import torch

from wirecut.errors import RankFailed
from wirecut.machine.echo import Address
from wirecut.machine.shm import DEADLINE_S
from wirecut.machine.sockets import Line

TOKEN_BYTES, HELLO_BYTES = 16, 64
LENGTH_BYTES = 8
FOREVER_S = 20 * 86400.0  # a socket without any limit would also wait to send


class Pipes:
    """Opens pipes from this rank to others. Both ends of each open theirs in the same order."""

    def __init__(self, line: Line, *, address: str) -> None:
        self._line = line
        self._server = socket.create_server((address, 0), backlog=256)
        self._server.settimeout(DEADLINE_S)
        if line.rank == 0:
            line.tell("pipe token", os.urandom(TOKEN_BYTES))  # a stranger's connection has no token
        line.tell("pipe", f"{address}:{self._server.getsockname()[1]}".encode())
        self._token = line.hear("pipe token", 0, DEADLINE_S)
        self._early: dict[bytes, socket.socket] = {}

    def open(self, peer: int, what: str, *, deadline_s: float | None = DEADLINE_S) -> "Pipe":
        """The pipe to rank `peer` for `what`; a receive over it waits for `deadline_s` at most."""
        first, second = sorted((self._line.rank, peer))
        hello = f"{first}-{second} {what}".encode()[: HELLO_BYTES - TOKEN_BYTES]
        hello = self._token + hello.ljust(HELLO_BYTES - TOKEN_BYTES)
        try:
            connection = self._dial(peer, hello) if peer == second else self._answer(hello)
        except OSError as error:
            raise RankFailed(f"no connection to {self._line.names[peer]}: {error}") from error
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(FOREVER_S if deadline_s is None else deadline_s)
        return Pipe(connection, f"{what} with {self._line.names[peer]}")

    def _dial(self, peer: int, hello: bytes) -> socket.socket:
        host, _, port = self._line.hear("pipe", peer, DEADLINE_S).decode().rpartition(":")
        address: Address = (host, int(port))
        connection = socket.create_connection(address, DEADLINE_S)
        connection.sendall(hello)
        return connection

    def _answer(self, hello: bytes) -> socket.socket:
        """The connection that begins with `hello`; others may come before it."""
        while hello not in self._early:
            connection, _ = self._server.accept()
            connection.settimeout(DEADLINE_S)
            said = bytearray(HELLO_BYTES)
            if _fill(connection, memoryview(said)) and said.startswith(self._token):
                self._early[bytes(said)] = connection
            else:
                connection.close()
        return self._early.pop(hello)

    def close(self) -> None:
        """Open no more."""
        self._server.close()


class Pipe:
    """One end of a connection to one peer. What is sent arrives in order, whole."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        self._connection, self._name = connection, name
        assert connection.gettimeout(), "a pipe's socket has a deadline"
        self._left: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._pending = 0
        self._lock = threading.Lock()
        self._sender: threading.Thread | None = None

    def send(self, x: torch.Tensor) -> None:
        """Send; returns at once. `x` must not change until it is received."""
        self._send(_bytes_of(x))

    def receive(self, out: torch.Tensor) -> torch.Tensor:
        """The next message, which has the size of `out`."""
        with self._naming("receive"):
            if not _fill(self._connection, _bytes_of(out)):
                raise RankFailed(f"{self._name}: the other end is gone")
        return out

    def send_message(self, message: bytes) -> None:
        """Send a message of any length."""
        self._send(memoryview(len(message).to_bytes(LENGTH_BYTES, "little") + message))

    def receive_message(self) -> bytes:
        """The next message that `send_message` sent."""
        length = self.receive(torch.empty(LENGTH_BYTES, dtype=torch.uint8))
        size = int.from_bytes(length.numpy().tobytes(), "little")
        return self.receive(torch.empty(size, dtype=torch.uint8)).numpy().tobytes()

    def close(self) -> None:
        """Send and receive no more."""
        self._connection.close()

    def _send(self, data: memoryview) -> None:
        """As much as the kernel takes now, the rest by a thread: two ranks that each send before
        they receive would otherwise wait for each other.
        """
        with self._naming("send"), self._lock:
            if self._pending == 0:
                data = self._offer(data)
                if not data:
                    return
            self._pending += 1
            self._left.put(data)
            if self._sender is None:
                self._sender = threading.Thread(target=self._send_left, daemon=True)
                self._sender.start()

    def _offer(self, data: memoryview) -> memoryview:
        """Send without waiting; what is left. A socket with a deadline is non-blocking below, where
        its own `send` would wait.
        """
        with contextlib.suppress(BlockingIOError):
            while data:
                data = data[os.write(self._connection.fileno(), data) :]
        return data

    def _send_left(self) -> None:
        """The sender's thread. An error shows at this end's next receive: the peer is gone."""
        with contextlib.suppress(OSError):
            while True:
                self._connection.sendall(self._left.get())
                with self._lock:
                    self._pending -= 1

    @contextlib.contextmanager
    def _naming(self, doing: str) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            waited = self._connection.gettimeout()
            raise RankFailed(f"{doing}, {self._name}: nothing within {waited:.0f} s") from error
        except OSError as error:
            raise RankFailed(f"{doing}, {self._name}: {error}") from error


def _bytes_of(x: torch.Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor."""
    return memoryview(x.reshape(-1).view(torch.uint8).numpy())


def _fill(connection: socket.socket, view: memoryview) -> bool:
    """Receive until `view` is full; False when the other end closes before."""
    while view:
        count = connection.recv_into(view)
        if count == 0:
            return False
        view = view[count:]
    return True
