// Attention of the rows of a prompt, or of a chunk of one, in bf16.
//
// A head's keys and values are packed once as panels, 32 positions a block, as far as any row sees.
// Then up to 12 rows at a time take block after block as two products, with the running softmax of
// attention.c between them.

#include <math.h>
#include <stdlib.h>

#include "kernels.h"

#ifdef HAS_TILES
enum { BLOCK = PROMPT_BLOCK };
_Static_assert((int)BLOCK == (int)PANEL, "a block of positions is a panel");

// Up to 12 rows under way: what each has mixed so far, relative to its greatest score.
typedef struct {
    float mixed[MOST_ROWS * MOST_WIDTH], top[MOST_ROWS], sum[MOST_ROWS];
    long first[MOST_ROWS], last[MOST_ROWS];  // the positions that each sees
    bf16 query[MOST_ROWS * MOST_WIDTH], shares[MOST_ROWS * BLOCK];
    void *out[MOST_ROWS];
} Rows;

// Keys of a block as a panel, position beside position; values as panels of 32 dims, pairs of
// positions side by side. Positions from `count` on hold nothing and become 0.
static void pack(const bf16 *keys, const bf16 *values, long count, long width, bf16 *to_keys,
                 bf16 *to_values)
{
    const uint32_t *pairs = (const uint32_t *)keys;
    for (long i = 0; i < width / 2; i++)
        for (long j = 0; j < BLOCK; j++)
            ((uint32_t *)to_keys)[i * BLOCK + j] = j < count ? pairs[j * width / 2 + i] : 0;
    for (long d = 0; d < width; d++)
        for (long j = 0; j < BLOCK; j++)
            to_values[(d / PANEL * BLOCK / 2 + j / 2) * PANEL * 2 + d % PANEL * 2 + j % 2] =
                j < count ? values[j * width + d] : 0;
}

// Weigh a block's scores for row r: its shares, and how far the earlier ones fade.
static float weigh(const Attention *a, Rows *rows, int r, long block, __m512 scores[2])
{
    float most = rows->top[r];
    vec shares[2];
    for (int half = 0; half < 2; half++) {
        ivec at = LANE + (int)(block * BLOCK + half * LANES);
        vec score = bend((vec)scores[half] * a->scale, a->cap);
        ivec seen = (at >= (int)rows->first[r]) & (at <= (int)rows->last[r]);
        shares[half] = choose(seen, score, all(-INFINITY));
        most = greater(all(most), all(greatest(shares[half])))[0];
    }
    float fade = most == -INFINITY ? 1 : exponential(all(rows->top[r] - most))[0];
    rows->sum[r] *= fade;
    for (int half = 0; half < 2; half++) {
        vec share = most == -INFINITY ? all(0) : exponential(shares[half] - most);
        rows->sum[r] += sum_of(share);
        store(rows->shares, r * BLOCK + half * LANES, share, 1);
    }
    rows->top[r] = most;
    return fade;
}

static void take_block(const Attention *a, Rows *rows, int count, long block, const bf16 *keys,
                       const bf16 *values)
{
    long width = a->head_dim;
    __m512 sums[MOST_ROWS][2];
    float fade[MOST_ROWS];
    TILES[count](rows->query, width, keys, (const char *)keys, 0, sums);
    for (int r = 0; r < count; r++)
        fade[r] = weigh(a, rows, r, block, sums[r]);
    for (long d = 0; d < width; d += PANEL) {
        TILES[count](rows->shares, BLOCK, values + d * BLOCK, (const char *)keys, 0, sums);
        for (int r = 0; r < count; r++)
            for (int half = 0; half < 2; half++) {
                long i = r * width + d + half * LANES;
                store(rows->mixed, i, load(rows->mixed, i, 0) * fade[r] + (vec)sums[r][half], 0);
            }
    }
}

// The first position that a row sees whose last is `last`.
INLINE long first_seen(const Attention *a, long last)
{
    return a->window && last >= a->window ? last - a->window + 1 : 0;
}

// Row number `r` of a sequence's rows for key head `k`: row r / shared of the step, head r % shared.
static void begin_row(const Attention *a, Rows *rows, int at, long s, long k, long r, long start)
{
    long shared = a->heads / a->kv_heads, head = k * shared + r % shared, width = a->head_dim;
    long row = a->rows[s] + r / shared, last = start + r / shared;
    memcpy(rows->query + at * width,
           (const bf16 *)a->queries + row * a->query_stride + head * width, width * sizeof(bf16));
    memset(rows->mixed + at * width, 0, width * sizeof(float));
    rows->out[at] = (bf16 *)a->out + (row * a->heads + head) * width;
    rows->top[at] = a->sinks ? a->sinks[head] : -INFINITY;
    rows->sum[at] = a->sinks ? 1 : 0;
    rows->last[at] = last;
    rows->first[at] = first_seen(a, last);
}

// Returns 0, or -1 where memory is missing.
static long prompt_head(const Attention *a, long s, long k, long count)
{
    long shared = a->heads / a->kv_heads, width = a->head_dim, length = a->lengths[s];
    long start = length - count, size = BLOCK * width;
    long first = first_seen(a, start) / BLOCK, blocks = (length + BLOCK - 1) / BLOCK - first;
    bf16 *packed = aligned_alloc(64, 2 * blocks * size * sizeof(bf16));
    if (!packed)
        return -1;
    bf16 *keys = packed - first * size, *values = keys + blocks * size;
    for (long b = first; b < first + blocks; b++) {
        long place = k * a->places + (long)a->blocks[s * a->blocks_each + b] * BLOCK;
        const bf16 *from_keys = a->keys, *from_values = a->values;
        pack(from_keys + place * width, from_values + place * width, length - b * BLOCK, width,
             keys + b * size, values + b * size);
    }
    Rows rows;
    for (long r = 0; r < count * shared; r += MOST_ROWS) {
        int now = count * shared - r < MOST_ROWS ? count * shared - r : MOST_ROWS;
        for (int i = 0; i < now; i++)
            begin_row(a, &rows, i, s, k, r + i, start);
        for (long b = rows.first[0] / BLOCK; b <= rows.last[now - 1] / BLOCK; b++)
            take_block(a, &rows, now, b, keys + b * size, values + b * size);
        for (int i = 0; i < now; i++)
            for (long d = 0; d < width; d += LANES)
                store(rows.out[i], d, load(rows.mixed, i * width + d, 0) / rows.sum[i], 1);
    }
    free(packed);
    return 0;
}

// Sequences have counts[s] rows from rows[s] on, their last positions. Blocks of 32, bf16. Returns 0,
// or -1 where memory is missing.
long prompt_attention(const Attention *a, const int32_t *counts)
{
    long missing = 0;
#pragma omp parallel for collapse(2) reduction(| : missing)
    for (long s = 0; s < a->sequences; s++)
        for (long k = 0; k < a->kv_heads; k++)
            missing |= prompt_head(a, s, k, counts[s]);
    return missing;
}
#endif
