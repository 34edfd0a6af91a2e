"""Text to tokens and back, with the checkpoint's own `tokenizer.json`."""

from importlib.util import find_spec
from pathlib import Path

from wirecut.errors import MissingExtra, ModelError, UsageError

UNFINISHED = "\ufffd"  # what decodes from the first bytes of a character


class Text:
    """The tokenizer of a model folder. Raises ModelError when there is none that can be read."""

    def __init__(self, folder: Path) -> None:
        if find_spec("tokenizers") is None:
            raise MissingExtra("engine", "turning text into tokens")
        from tokenizers import Tokenizer

        if not folder.is_dir():
            raise ModelError(
                f"the model's weights are not on this machine ({folder} is not there): download "
                "them with `hf download`, or give a folder that holds them"
            )
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(
                f"{folder} has no tokenizer.json, which turning text into tokens needs"
            )
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises a bare Exception
            raise ModelError(f"{path} cannot be read: {error}") from error

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of `text`, with what the checkpoint puts around every prompt."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"text {text!r} is not valid Unicode: expected UTF-8") from error
        return tuple(self._tokenizer.encode(text).ids)

    def decode(self, tokens: list[int]) -> str:
        """The text of `tokens`; special ones leave nothing."""
        return self._tokenizer.decode(tokens, skip_special_tokens=True)


class Stream:
    """The text of tokens as they come: whole characters only.

    Decodes a few tokens each time, not all so far: from the ones that were told last, since what a
    token reads as may depend on the one before it.
    """

    def __init__(self, text: Text) -> None:
        self._text, self._tokens = text, list[int]()
        self._known = 0  # how many of `_tokens` have been told

    def add(self, token: int) -> str:
        """What `token` adds to the text; empty while a character is unfinished."""
        self._tokens.append(token)
        before = self._text.decode(self._tokens[: self._known])
        whole = self._text.decode(self._tokens)
        if whole.endswith(UNFINISHED) or len(whole) == len(before):
            return ""
        self._tokens = self._tokens[self._known :]
        self._known = len(self._tokens)
        return whole[len(before) :]

    def rest(self) -> str:
        """What an unfinished character reads as, at the end."""
        before = self._text.decode(self._tokens[: self._known])
        return self._text.decode(self._tokens)[len(before) :]


class Writer:
    """The text of one answer as it comes, up to the first of the strings `stop`. What may be the
    beginning of one is held back until that is known.
    """

    def __init__(self, text: Text, stop: tuple[str, ...]) -> None:
        self._stream, self._stop = Stream(text), stop
        self._longest = max(map(len, stop), default=0)
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """What `token` adds to the text that is sure; `stopped` when a stop string was found."""
        return self._tell(self._stream.add(token), end=False)

    def end(self) -> str:
        """What is still to be told when no token follows."""
        return self._tell(self._stream.rest(), end=True)

    def _tell(self, more: str, *, end: bool) -> str:
        self._held += more
        found = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        self.stopped = bool(found)
        if found or end:
            told, self._held = self._held[: min(found, default=None)], ""
            return told
        kept = self._num_kept()
        told, self._held = (
            self._held[: len(self._held) - kept],
            self._held[len(self._held) - kept :],
        )
        return told

    def _num_kept(self) -> int:
        """Characters at the end of what is held that a stop string begins with."""
        for count in range(min(self._longest - 1, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-count:]) for stop in self._stop):
                return count
        return 0
