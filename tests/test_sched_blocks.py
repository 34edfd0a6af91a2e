"""The pool of blocks: who gets which, and which are given up first."""

from wirecut.sched.blocks import BlockPool


def test_a_growing_request_gets_the_next_block_though_others_start_after_it():
    pool = BlockPool(16)
    a, b = pool.lend(5), pool.lend(5)
    assert pool.grow(a, 2)
    assert pool.grow(b, 2)
    assert pool.grow(a, 3)
    assert (a.blocks, b.blocks) == ((0, 1, 2, 3, 4), (5, 6))


def test_a_request_goes_into_the_tightest_run_that_holds_all_of_it():
    pool = BlockPool(20)
    leases = [pool.lend(n) for n in (6, 1, 3, 1)]
    for lease in leases:
        assert pool.grow(lease, lease.most)
    pool.give_back(leases[0])  # free: 0-5, 7-9, 11-19
    pool.give_back(leases[2])
    late = pool.lend(3)
    assert pool.grow(late, 1)
    assert late.blocks == (7,)
    later = pool.lend(4)
    assert pool.grow(later, 1)
    assert later.blocks == (0,)


def test_blocks_meant_for_another_are_taken_last_and_from_their_far_half():
    pool = BlockPool(8)
    a, b = pool.lend(8), pool.lend(3)
    assert pool.grow(a, 2)
    assert pool.grow(b, 2)
    assert b.blocks == (5, 6)  # of 2-7 meant for a, the far half
    assert pool.grow(b, 1)
    assert b.blocks == (5, 6, 7)
    assert pool.grow(a, 3)
    assert a.blocks == (0, 1, 2, 3, 4)
    assert not pool.grow(a, 1)
    pool.give_back(b)
    assert pool.grow(a, 3)
    assert a.blocks == tuple(range(8))


def test_a_request_whose_run_was_cut_goes_on_behind_its_last_block():
    pool = BlockPool(11)
    x, a, b = pool.lend(3), pool.lend(8), pool.lend(2)
    for lease, count in ((x, 3), (a, 2), (b, 2), (a, 3)):
        assert pool.grow(lease, count)
    assert (a.blocks, b.blocks) == ((3, 4, 5, 6, 7), (8, 9))
    pool.give_back(x)  # 0-2 would hold the rest of a too
    pool.give_back(b)
    assert pool.grow(a, 1)
    assert a.blocks == (3, 4, 5, 6, 7, 8)


def test_grow_gives_all_or_nothing():
    pool = BlockPool(4)
    a, b = pool.lend(3), pool.lend(4)
    assert pool.grow(a, 3)
    assert not pool.grow(b, 2)
    assert (pool.num_free, b.blocks) == (1, ())
    assert pool.grow(b, 1)
    assert b.blocks == (3,)


def test_the_least_recently_used_goes_first_and_its_end_before_its_beginning():
    pool = BlockPool(6)
    for name in (b"a", b"b"):
        lease = pool.lend(3)
        assert pool.grow(lease, 3)
        for i, block in enumerate(lease.blocks):
            pool.name(block, name + bytes([i]))
        pool.give_back(lease)
    first, second = ([name + bytes([i]) for i in range(3)] for name in (b"a", b"b"))
    pool.give_back(pool.lend(3, first[:2]))  # used later than the rest
    other = pool.lend(2)
    assert pool.grow(other, 2)
    assert other.blocks == (2, 5)
    assert pool.lend(3, first).blocks == (0, 1)
    assert pool.lend(3, second).blocks == (3, 4)
    assert pool.num_free == 0
