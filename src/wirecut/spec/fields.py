"""The fields of a configuration, each checked as it is read; every complaint names origin and
field.

    fields = Fields({"hidden_size": 4096}, "config.json")
    fields.count("hidden_size")          # 4096
"""

from collections.abc import Mapping
from typing import Any, cast

from wirecut.errors import ModelError

LARGEST = 10**7  # no published dimension comes near; beyond it a number is a mistake
MOST_LAYERS = 10_000


class Fields:
    """A configuration, and `where` it comes from."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def count(
        self, *names: str, default: int | None = None, least: int = 1, most: int = LARGEST
    ) -> int:
        """The first of `names` that is given, a whole number from `least` to `most`."""
        name, value = self._first(names)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.error(f"{name} is {value!r}, expected a whole number from {least} to {most}")
        return value

    def optional(self, *names: str) -> int | None:
        """Like `count`; None when none is given. 0 counts as not given."""
        name, value = self._first(names)
        return None if value is None or value == 0 else self.count(name)

    def positive(self, *names: str, default: float | None = None) -> float:
        """A positive number; without a default it has to be given."""
        name, value = self._first(names)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e12:
            raise self.error(f"{name} is {value!r}, expected a positive number")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self.values.get(name)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.error(f"{name} is {value!r}, expected true or false")
        return value

    def text(self, name: str, default: str = "") -> str:
        """A string."""
        value = self.values.get(name)
        value = default if value is None else value
        if not isinstance(value, str):
            raise self.error(f"{name} is {value!r}, expected text")
        return value

    def inner(self, name: str) -> "Fields":
        """An object within; empty when it is not given."""
        value: Any = self.values.get(name) or {}
        if not isinstance(value, dict):
            raise self.error(f"{name} is {value!r}, expected an object")
        return Fields(cast(dict[str, Any], value), f"{self.where}: {name}")

    def items(self, name: str) -> list[Any]:
        """A list; empty when it is not given."""
        value: Any = self.values.get(name)
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            raise self.error(f"{name} is {value!r}, expected a list")
        return list(cast(list[Any], value))

    def per_layer(self, name: str, layers: int) -> list[Any]:
        """A list with an entry for each layer at least; empty when it is not given."""
        found = self.items(name)
        if found and len(found) < layers:
            raise self.error(f"{name} has {len(found)} entries for {layers} layers")
        return found[:layers]

    def numbers(self, name: str) -> set[int]:
        """A list of whole numbers, such as those of layers."""
        found = self.items(name)
        if not all(type(one) is int for one in found):
            raise self.error(f"{name} is {found!r}, expected whole numbers")
        return set(found)

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def layers(self) -> int:
        """How many layers there are."""
        return self.count(
            "num_hidden_layers", "n_layer", "num_layers", "n_layers", most=MOST_LAYERS
        )

    def error(self, what: str) -> ModelError:
        return ModelError(f"{self.where}: {what}")

    def _first(self, names: tuple[str, ...]) -> tuple[str, Any]:
        for name in names:
            if (value := self.values.get(name)) is not None:
                return name, value
        return names[0], None
