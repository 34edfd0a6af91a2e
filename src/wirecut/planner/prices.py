"""What devices cost: prices per hour that the user gives, and what a layout costs with them.

    prices = read_prices(["H100-SXM=2.5", "L40S=0.9"])
    per_million(hourly(fabric, placement, prices), output_tokens_per_s=2400)

No price is known here: nothing is planned for cost without the user's.
"""

from collections.abc import Mapping, Sequence

from wirecut.errors import FabricError, UsageError
from wirecut.fabric.catalogue import find_device
from wirecut.fabric.fabric import Fabric
from wirecut.spec.traffic import LEAST, MOST

EVERY = "*"  # the price of every device that has none of its own
HOUR_S = 3600.0

Prices = Mapping[str, float]


def read_prices(texts: Sequence[str]) -> dict[str, float]:
    """Prices per device and hour from "H100-SXM=2.5", or "2.5" for all. Raises UsageError."""
    prices: dict[str, float] = {}
    for text in texts:
        name, named, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise UsageError(
                f"price {text[:80]!r} is not understood: write H100-SXM=2.5 (per hour), or 2.5 "
                "for every device"
            ) from None
        if named and not name.strip():
            raise UsageError(
                f"price {text[:80]!r} names no device before the =: write H100-SXM=2.5, or 2.5 for "
                "every device"
            )
        key = device_name(name) if named else EVERY
        if key in prices:
            raise UsageError(
                f"the price of {'every device' if key == EVERY else key} is given twice"
            )
        prices[key] = value
    return check_prices(prices)


def check_prices(prices: Prices) -> dict[str, float]:
    """The prices by the devices' names. Raises UsageError for those that make no sense."""
    for name, value in prices.items():
        if not LEAST <= value <= MOST:  # false for NaN too
            device = "every device" if name == EVERY else name
            raise UsageError(
                f"the price of {device} is {value!r}, expected {LEAST} to {MOST:g} per hour"
            )
    return {name if name == EVERY else device_name(name): value for name, value in prices.items()}


def device_name(text: str) -> str:
    """A device as the catalogue names it; one that it does not know, as it is written."""
    try:
        return find_device(text).name
    except FabricError:
        return text.strip()


def device_prices(fabric: Fabric, prices: Prices) -> tuple[float, ...]:
    """The price of an hour of each device. Raises UsageError that names a device without one."""
    found: dict[str, float] = {}
    for name in dict.fromkeys(device.name for device in fabric.devices):
        price = prices.get(device_name(name), prices.get(EVERY))
        if price is None:
            raise UsageError(
                f"no price for {name}: give --price {name.replace(' ', '-')}=PRICE (per device and "
                "hour), or --price PRICE for every device"
            )
        found[name] = price
    return tuple(found[device.name] for device in fabric.devices)


def hourly(fabric: Fabric, placement: Sequence[int], prices: Prices) -> float:
    """The price of an hour of these devices."""
    each = device_prices(fabric, prices)
    return sum(each[i] for i in placement)


def per_million(price_per_hour: float, output_tokens_per_s: float) -> float:
    """The price of a million output tokens."""
    return price_per_hour / (output_tokens_per_s * HOUR_S) * 1e6
