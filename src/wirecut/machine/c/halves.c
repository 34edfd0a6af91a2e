// Halves of layers, one behind the other, in one call: between two products nothing else is run, so
// that memory is read nearly without a break. In bf16; machine/halves.py says what may be in them.
//
// A half is x + reduce(part(norm(x))), its part attention or a gated MLP. Each kernel here is the
// one that is called when a half is run by itself, so that the bits are the same.

#include <time.h>

#include "halves.h"

#ifdef HAS_TILES

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000l + time.tv_nsec;
}

static Attention asked(const Half *h, const Step *s, Attention a)
{
    long width = h->heads + 2 * h->kv_heads;
    a.queries = s->wide, a.out = s->narrow, a.query_stride = width * h->head_dim;
    a.keys = h->keys, a.values = h->values;
    a.heads = h->heads, a.kv_heads = h->kv_heads, a.head_dim = h->head_dim, a.places = h->places;
    a.window = h->window, a.scale = h->scale;
    return a;
}

// Returns 0, or -1 where memory is missing; so does `part`.
static long attention(const Half *h, const Step *s)
{
    long turned = h->heads + h->kv_heads, stride = (turned + h->kv_heads) * h->head_dim;
    if (h->head_norms)
        norm_heads(s->wide, h->head_norms, s->rows, stride, turned, h->head_dim, h->head_eps, 1);
    rotate(s->wide, s->cosines, s->sines, s->rows, stride, turned, h->head_dim, s->turning, 1);
    const bf16 *keys = s->wide + h->heads * h->head_dim, *values = s->wide + turned * h->head_dim;
    keep(keys, h->keys, s->slots, s->rows, stride, h->kv_heads, h->head_dim, h->places, 1);
    keep(values, h->values, s->slots, s->rows, stride, h->kv_heads, h->head_dim, h->places, 1);
    Attention decodes = asked(h, s, s->decodes), prompts = asked(h, s, s->prompts);
    if (decodes.sequences)
        decode_attention(&decodes, 1);
    return prompts.sequences ? prompt_attention(&prompts, s->prompt_counts) : 0;
}

static long part(const Half *h, const Step *s)
{
    rms_norm(s->x, h->norm, s->normed, s->rows, s->hidden, h->eps, 1);
    linear_bf16(s->normed, h->into, h->into_bias, s->wide, s->rows, h->into_outs, s->hidden);
    if (!h->keys)
        silu_gate(s->wide, s->narrow, s->rows, h->back_ins, 1);
    else if (attention(h, s))
        return -1;
    linear_bf16(s->narrow, h->back, 0, s->part, s->rows, s->hidden, h->back_ins);
    return 0;
}

static void add(bf16 *x, const bf16 *y, long rows, long width)
{
#pragma omp parallel for if (rows > FEW_ROWS)
    for (long r = 0; r < rows; r++)
        for (long i = r * width; i < (r + 1) * width; i += LANES)
            store(x, i, load(x, i, 1) + load(y, i, 1), 1);
}

// Run what is left of `count` halves. `g`: none, or the ranks over which parts are summed. Returns 0
// when x has passed them all; else 1 + the rank that is late: wait for it, and call again; or -1
// where memory is missing.
long run_halves(const Half *halves, long count, Step *s, Group *g)
{
    for (; s->half < count; s->half++) {
        int64_t *times = s->times + 2 * s->half;
        if (!s->waiting) {
            if (part(halves + s->half, s))
                return -1;
            s->waiting = 1;
            times[0] = now();
            if (g)
                g->round++;
        }
        if (g) {
            long late = all_reduce(s->part, g->slots[g->round & 1], g->flags, g->rank, g->size,
                                   g->round, s->rows * s->hidden, g->spins, 1);
            if (late)
                return late;
        }
        times[1] = now();
        add(s->x, s->part, s->rows, s->hidden);
        s->waiting = 0;
    }
    return 0;
}
#endif
