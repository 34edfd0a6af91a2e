"""Small messages from one rank to others of its replica: steps from its leader, tokens to it.

steps = SharedBytes(mailbox, None)        # the writer
steps.send(b"...")
SharedBytes(mailbox, 0).receive()         # the first reader
"""

from wirecut.machine.mailbox import Mailbox
from wirecut.machine.pipes import Pipe


class SharedBytes:
    """Small messages from one rank to others of its replica through a mailbox. One that is longer
    than a slot goes in pieces, of which the last does not fill its slot.
    """

    def __init__(self, box: Mailbox, reader: int | None) -> None:
        self._box, self._reader = box, reader

    def send(self, message: bytes) -> None:
        for start in range(0, len(message) + 1, self._box.slot_bytes):
            self._box.write(message[start : start + self._box.slot_bytes])

    def receive(self) -> bytes:
        assert self._reader is not None
        message = piece = self._box.read_bytes(self._reader)
        while len(piece) == self._box.slot_bytes:
            piece = self._box.read_bytes(self._reader)
            message += piece
        return message


class SocketBytes:
    """The same through sockets, to each of the others in turn."""

    def __init__(self, pipes: list[Pipe]) -> None:
        self._pipes = pipes

    def send(self, message: bytes) -> None:
        for pipe in self._pipes:
            pipe.send_message(message)

    def receive(self) -> bytes:
        return self._pipes[0].receive_message()
