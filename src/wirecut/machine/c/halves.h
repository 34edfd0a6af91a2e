// What native code is told of halves of layers, of the ranks that sum them, and of a step.

#pragma once
#include "kernels.h"

#ifdef HAS_TILES
typedef struct {
    const bf16 *norm;             // weight of the norm before
    const bf16 *into, *into_bias; // the product into the part: q, k and v, or gate and up
    const bf16 *back;             // the product out of it
    const bf16 *head_norms;       // of queries and keys, by head; or none
    void *keys, *values;          // none: an MLP
    long into_outs, back_ins;
    long heads, kv_heads, head_dim, places, window;
    float eps, head_eps, scale;
} Half;

// Ranks that share memory; see all_reduce. `round` is the last one that this rank was in.
typedef struct {
    void *const *slots[2];
    int64_t *const *flags;
    long rank, size, round, spins;
} Group;

// What all halves of a step are told, and how far it has come: `half` is the next one, `waiting`
// whether its part is computed and only its sum is missing. `times`: begin and end of every sum.
typedef struct {
    bf16 *x, *normed, *wide, *narrow, *part;
    const bf16 *cosines, *sines;
    const int64_t *slots;
    const int32_t *prompt_counts;
    int64_t *times;
    Attention decodes, prompts; // the fields that do not depend on the half
    long rows, hidden, turning, half, waiting;
} Step;

long run_halves(const Half *halves, long count, Step *s, Group *g);
#endif
