"""wirecut: how to cut a language model across devices, why, and running it. Importing this loads
nothing heavy.

    import wirecut
    traffic = wirecut.Traffic(input_tokens=512, output_tokens=128, concurrency=8)
    ranking = wirecut.plan("examples/demo-model", fabric="fabric.json", traffic=traffic)
"""

from importlib import import_module
from typing import TYPE_CHECKING

from wirecut.version import __version__

if TYPE_CHECKING:  # for type checkers; at run time these load when asked for
    from wirecut.api import estimate, plan
    from wirecut.errors import WirecutError
    from wirecut.spec.traffic import Traffic

_HOMES = {
    "Traffic": "wirecut.spec.traffic",
    "WirecutError": "wirecut.errors",
    "estimate": "wirecut.api",
    "plan": "wirecut.api",
}

__all__ = ["Traffic", "WirecutError", "__version__", "estimate", "plan"]


def __getattr__(name: str) -> object:
    """Load a public name from its home when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'wirecut' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
