"""Which sizes native code takes on CPUs: the engine asks before it calls, a plan before it prices.

    fits_product(outs=3072, ins=1024)
    in_one_piece(2048, ranks=2)

Imports no torch, as planning does not.
"""

from wirecut.units import KIB, MIB

LANES = 16  # as c/numbers.h has it
PANEL = 32  # outputs that stand together in a weight, as c/tiles.h has it
MOST_WIDTH = 256  # of a head, as c/attention.h has it
LARGEST_SLOT = 8 * MIB  # of a collective in shared memory
TWO_SHOT_BYTES = 256 * KIB  # from here on, more than two ranks share the adding


def fits_product(outs: int, ins: int) -> bool:
    """Whether a product of these sizes runs between others, in whole vectors."""
    return outs % LANES == 0 and ins % LANES == 0


def fits_turn(width: int) -> bool:
    """Whether both halves of the dims that a rope turns are whole vectors."""
    return width % (2 * LANES) == 0


def fits_prompts(head_dim: int) -> bool:
    """Whether attention of sequences of many rows takes heads of this size."""
    return head_dim % PANEL == 0 and head_dim <= MOST_WIDTH


def is_two_shot(num_bytes: int, *, ranks: int) -> bool:
    """Whether a sum over ranks that share memory goes in two rounds: parts, then their sums."""
    return ranks > 2 and num_bytes >= TWO_SHOT_BYTES


def in_one_piece(num_bytes: int, *, ranks: int, slot_bytes: int = LARGEST_SLOT) -> bool:
    """Whether it goes in one round, which native code does by itself; a rank alone sums nothing."""
    if ranks == 1:
        return True
    return num_bytes <= slot_bytes and not is_two_shot(num_bytes, ranks=ranks)
