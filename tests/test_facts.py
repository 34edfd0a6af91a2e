"""Facts are the frozen dataclasses with slots that the standard library makes."""

from dataclasses import FrozenInstanceError, dataclass, field, fields, replace

import msgspec
import pytest

from wirecut.facts import fact


def _example(decorator):
    @decorator
    class Example:
        name: str
        size: int = 3
        parts: list[int] = field(default_factory=list)

        def __post_init__(self) -> None:
            if self.size < 0:
                raise ValueError("size is negative")

    return Example


THEIRS, OURS = _example(dataclass(frozen=True, slots=True)), _example(fact)


@pytest.mark.parametrize("cls", [THEIRS, OURS])
def test_a_fact_is_a_frozen_dataclass_with_slots(cls):
    one = cls("a")
    assert (one.name, one.size, one.parts) == ("a", 3, [])
    assert cls("a").parts is not one.parts
    assert [f.name for f in fields(cls)] == ["name", "size", "parts"]
    assert replace(one, size=4) == cls("a", 4) != one
    assert one != ("a", 3, [])
    assert repr(one).endswith("Example(name='a', size=3, parts=[])")
    assert not hasattr(one, "__dict__")
    assert msgspec.to_builtins(one) == {"name": "a", "size": 3, "parts": []}
    assert msgspec.convert({"name": "a", "size": 3}, cls) == one
    match one:
        case cls(name, size):
            assert (name, size) == ("a", 3)
    for change in (lambda: setattr(one, "size", 4), lambda: delattr(one, "size")):
        with pytest.raises(FrozenInstanceError, match="field 'size'"):
            change()
    with pytest.raises(ValueError, match="negative"):
        cls("a", -1)
    with pytest.raises(TypeError, match="name"):
        cls()
    with pytest.raises(TypeError):
        hash(one)  # of the list


def test_methods_of_its_own_stay():
    @fact
    class Alike:
        name: str

        def __hash__(self) -> int:
            return 7

    assert hash(Alike("a")) == 7
    assert Alike("a") == Alike("a")
    assert hash(_example(fact)("a", 1, ())) == hash(("a", 1, ()))
