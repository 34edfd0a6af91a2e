"""Facts: frozen dataclasses with slots that are quick to define; a plan loads more than a hundred.

    @fact
    class Leg:
        bytes: float
        kind: str = "nvlink"

    replace(Leg(5e6), kind="pcie4")

The standard library writes and compiles six methods for each such class, which takes a short run a
fifth of its time. Here one is compiled, and the others are alike. `dataclasses.fields` and
`replace`, and msgspec, take a fact for the dataclass that it is.
"""

from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from typing import Any, NoReturn, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def fact(cls: type[T]) -> type[T]:
    """The class as `dataclass(frozen=True, slots=True)` makes it; methods of its own stay."""
    made: Any = dataclass(init=False, repr=False, eq=False, slots=True)(cls)
    methods = {
        "__init__": _init(made),
        "__setattr__": _no_assignment,
        "__delattr__": _no_deletion,
        **_comparisons(made),
    }
    for name, method in methods.items():
        if name not in cls.__dict__:
            setattr(made, name, method)
    return made


def _init(cls: Any) -> Callable[..., None]:
    """The one method that is compiled: its parameters are the fields."""
    known: dict[str, Any] = {"put": object.__setattr__, "MISSING": MISSING}
    parameters, body = ["self"], list[str]()
    for one in fields(cls):
        name, value = one.name, one.name
        if one.default_factory is not MISSING:
            known[f"make_{name}"] = one.default_factory
            value = f"make_{name}() if {name} is MISSING else {name}"
            parameters.append(f"{name}=MISSING")
        elif one.default is not MISSING:
            known[f"default_{name}"] = one.default
            parameters.append(f"{name}=default_{name}")
        else:
            parameters.append(name)
        body.append(f"put(self, {name!r}, {value})")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    exec(f"def __init__({', '.join(parameters)}): {'; '.join(body)}", known)
    return known["__init__"]


def _comparisons(cls: Any) -> dict[str, Callable[..., Any]]:
    """Equality, hash and text, by the fields."""
    names = tuple(one.name for one in fields(cls))
    values = attrgetter(*names)

    def equal(self: object, other: object) -> Any:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return values(self) == values(other)

    def hashed(self: object) -> int:
        return hash(values(self))

    def shown(self: object) -> str:
        each = (f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__qualname__}({', '.join(each)})"

    return {"__eq__": equal, "__hash__": hashed, "__repr__": shown}


def _no_assignment(self: object, name: str, value: object) -> NoReturn:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _no_deletion(self: object, name: str) -> NoReturn:
    raise FrozenInstanceError(f"cannot delete field {name!r}")
