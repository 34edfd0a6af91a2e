// Attention of sequences that each have one row in the step: a decode over the paged cache.
//
// The softmax runs along: `top` is the greatest score so far, `sum` and `mixed` are relative to it
// (Milakov and Gimelshein 2018).

#include <math.h>

#include "kernels.h"

// Have 16 positions in the second cache before they are needed: they would flood the first.
INLINE void fetch(const Attention *a, const void *rows, long from, int bf16)
{
    const char *bytes = at(rows, from * a->head_dim, bf16);
    for (long i = 0; i < LANES * a->head_dim * (bf16 ? 2 : 4); i += 64)
        __builtin_prefetch(bytes + i, 0, 2);
}

// Where block `b` of a sequence begins in the keys (or values) of head `k`, counted in elements. One
// past the last: that of the next head, which is read next.
INLINE long place(const Attention *a, long s, long k, long b, long begin)
{
    if (b * a->block >= a->lengths[s]) {
        b = begin / a->block;
        if (++k == a->kv_heads)
            k = 0, s = s + 1 < a->sequences ? s + 1 : s;
    }
    return (k * a->places + (long)a->blocks[s * a->blocks_each + b] * a->block) * a->head_dim;
}

// Scores of a block's positions for one query, 16 at a time; those from `to` on are of no use.
INLINE void score(const Attention *a, const vec *query, const void *keys, long to, vec *scores,
                  const void *ahead, int bf16)
{
    for (long j = 0; j < to; j += LANES) {
        if (ahead)
            fetch(a, ahead, j, bf16);
        vec dots[LANES];
        for (long i = 0; i < LANES; i++) {
            dots[i] = all(0);
            for (long d = 0; d < a->head_dim / LANES; d++)
                dots[i] += query[d] * load(keys, (j + i) * a->head_dim + d * LANES, bf16);
        }
        scores[j / LANES] = bend(sums_of(dots), a->cap);
    }
}

// `width` vectors of values, from number d on, weighted by their shares. `width` is a constant: the
// sums stay in registers.
INLINE void mix(const Attention *a, const float *shares, const void *values, long from, long to,
                vec fade, long d, int width, vec *mixed, int bf16)
{
    vec sums[4];
    for (int i = 0; i < width; i++)
        sums[i] = mixed[d + i] * fade;
    for (long j = from; j < to; j++)
        for (int i = 0; i < width; i++)
            sums[i] += shares[j] * load(values, j * a->head_dim + (d + i) * LANES, bf16);
    for (int i = 0; i < width; i++)
        mixed[d + i] = sums[i];
}

// Fold a block's scores and values into what one query has mixed so far.
INLINE void fold(const Attention *a, vec *scores, const void *values, long from, long to,
                 float *top, float *sum, vec *mixed, int bf16)
{
    vec tops = all(*top);
    for (long j = 0; j < to; j += LANES) {
        ivec seen = (LANE + (int)j >= (int)from) & (LANE + (int)j < (int)to);
        scores[j / LANES] = choose(seen, scores[j / LANES], all(-INFINITY));
        tops = greater(tops, scores[j / LANES]);
    }
    float before = *top;
    *top = greatest(tops);
    vec fade = exponential(all(before - *top)), sums = all(0);
    for (long j = 0; j < to; j += LANES) {
        scores[j / LANES] = exponential(scores[j / LANES] - *top);
        sums += scores[j / LANES];
    }
    *sum = *sum * fade[0] + sum_of(sums);
    const float *shares = (const float *)scores;
    long vectors = a->head_dim / LANES, d = 0;
    for (; d + 4 <= vectors; d += 4)
        mix(a, shares, values, from, to, fade, d, 4, mixed, bf16);
    for (; d < vectors; d++)
        mix(a, shares, values, from, to, fade, d, 1, mixed, bf16);
}

// The query heads of one sequence that share key head `k`.
INLINE void attend(const Attention *a, long s, long k, int bf16)
{
    long shared = a->heads / a->kv_heads, vectors = a->head_dim / LANES, length = a->lengths[s];
    long begin = a->window && length > a->window ? length - a->window : 0;
    vec query[shared * vectors], mixed[shared * vectors];
    float top[shared], sum[shared];
    const void *row = at(a->queries, a->rows[s] * a->query_stride, bf16);
    for (long h = 0; h < shared; h++) {
        for (long d = 0; d < vectors; d++) {
            long i = (k * shared + h) * a->head_dim + d * LANES;
            query[h * vectors + d] = load(row, i, bf16) * a->scale;
            mixed[h * vectors + d] = all(0);
        }
        top[h] = a->sinks ? a->sinks[k * shared + h] : -INFINITY;
        sum[h] = a->sinks ? 1 : 0;
    }
    for (long b = begin / a->block; b * a->block < length; b++) {
        long first = b * a->block, from = begin > first ? begin - first : 0;
        long to = length - first < a->block ? length - first : a->block;
        long here = place(a, s, k, b, begin), next = place(a, s, k, b + 1, begin);
        const void *keys = at(a->keys, here, bf16), *values = at(a->values, here, bf16);
        for (long j = 0; j < a->block; j += LANES)
            fetch(a, at(a->values, next, bf16), j, bf16);
        for (long h = 0; h < shared; h++) {
            vec scores[MOST_BLOCK / LANES];
            score(a, query + h * vectors, keys, to, scores, h ? 0 : at(a->keys, next, bf16), bf16);
            fold(a, scores, values, from, to, top + h, sum + h, mixed + h * vectors, bf16);
        }
    }
    void *out = at(a->out, a->rows[s] * a->heads * a->head_dim, bf16);
    for (long h = 0; h < shared; h++)
        for (long d = 0; d < vectors; d++)
            store(out, (k * shared + h) * a->head_dim + d * LANES,
                  mixed[h * vectors + d] / sum[h], bf16);
}

void decode_attention(const Attention *a, int bf16)
{
#pragma omp parallel for collapse(2)
    for (long s = 0; s < a->sequences; s++)
        for (long k = 0; k < a->kv_heads; k++)
            if (bf16)
                attend(a, s, k, 1);
            else
                attend(a, s, k, 0);
}
