// The sum over ranks that share memory, as machine/shm.py describes it: each rank copies its data to
// its slot, says so by its flag, and adds all slots in the order of ranks, in fp32.

#include "kernels.h"

// 0 once every flag has reached `round`, else 1 + the rank whose flag had not after `spins` looks.
static long late(int64_t *const *flags, long size, int64_t round, long spins)
{
    for (long rank = 0; rank < size; rank++)
        for (long spin = 0; __atomic_load_n(flags[rank], __ATOMIC_ACQUIRE) < round; spin++) {
            if (spin >= spins)
                return 1 + rank;
#ifdef __x86_64__
            __builtin_ia32_pause();
#endif
        }
    return 0;
}

INLINE void add(void *x, void *const *slots, long size, long count, int bf16)
{
    for (long i = 0; i < count; i += LANES) {
        vec sum = load(slots[0], i, bf16);
        for (long rank = 1; rank < size; rank++)
            sum += load(slots[rank], i, bf16);
        store(x, i, sum, bf16);
    }
}

// Take part in round `round` as `rank`. Returns 0 when x holds the sum; else 1 + the rank that is
// late: wait for it, and call again with the same arguments.
long all_reduce(void *x, void *const *slots, int64_t *const *flags, long rank, long size,
                long round, long count, long spins, int bf16)
{
    long who;
    if (*flags[rank] < round) {
        if ((who = late(flags, size, round - 1, spins)))
            return who;
        memcpy(slots[rank], x, count * (bf16 ? 2 : 4));
        __atomic_store_n(flags[rank], round, __ATOMIC_RELEASE);
    }
    if ((who = late(flags, size, round, spins)))
        return who;
    if (bf16)
        add(x, slots, size, count, 1);
    else
        add(x, slots, size, count, 0);
    return 0;
}
