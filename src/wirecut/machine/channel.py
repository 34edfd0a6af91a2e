"""Typed messages over a connected socket: a 4-byte length, then MessagePack. Nothing is ever
unpickled.

    mine, yours = Channel.pair()
    Channel(mine).send(Progress(...))
    Channel(yours, accepts=Progress).receive(timeout_s=1.0)

Message types are msgspec structs; a receiver says which ones it accepts. The peer's end shows as
`ChannelClosed`.
"""

import select
import socket
import time
from typing import Any

import msgspec

LARGEST_MESSAGE = 1 << 30
CHUNK = 64 << 10  # read at once: memory is taken for all of it each time


class ChannelClosed(Exception):
    """The other side is gone."""


class Channel:
    """One end of a connection that carries whole messages, decoded as `accepts` (a type)."""

    def __init__(self, sock: socket.socket, accepts: Any = Any) -> None:
        self.sock = sock
        self._decoder = msgspec.msgpack.Decoder(accepts)
        self._buffer = bytearray()
        sock.setblocking(True)

    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        """Two connected sockets; wrap each end with the messages that it accepts."""
        return socket.socketpair()

    def expect(self, accepts: Any) -> None:
        """From now on take only messages of this type or union."""
        self._decoder = msgspec.msgpack.Decoder(accepts)

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, message: msgspec.Struct) -> None:
        """Send one message, waiting for room. Raises ChannelClosed."""
        body = msgspec.msgpack.encode(message)
        try:
            self.sock.sendall(len(body).to_bytes(4, "little") + body)
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def waiting(self) -> bool:
        """Whether a receive would find at least the beginning of a message, or the end, at once."""
        return self.buffered() or bool(select.select([self.sock], [], [], 0)[0])

    def buffered(self) -> bool:
        """Whether a whole message has been read already: a selector would not tell."""
        return len(self._buffer) >= 4 and len(self._buffer) >= 4 + self._length()

    def receive(self, timeout_s: float | None = None) -> Any:
        """The next message. Raises ChannelClosed at the end, TimeoutError after `timeout_s`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.buffered():
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self.sock], [], [], left)[0]:
                raise TimeoutError
            try:
                chunk = self.sock.recv(CHUNK)
            except OSError as error:
                raise ChannelClosed(str(error)) from error
            if not chunk:
                raise ChannelClosed("end of stream")
            self._buffer += chunk
        length = self._length()
        message = self._decoder.decode(memoryview(self._buffer)[4 : 4 + length])
        del self._buffer[: 4 + length]
        return message

    def close(self) -> None:
        self.sock.close()

    def _length(self) -> int:
        length = int.from_bytes(self._buffer[:4], "little")
        if length > LARGEST_MESSAGE:
            raise ChannelClosed(
                f"message of {length} bytes announced, at most {LARGEST_MESSAGE} are taken"
            )
        return length
