// What attention is asked, whichever kernel computes it.
//
// Keys and values are (kv_heads, places, head_dim); position p of a sequence lies at place
// blocks[p / block] * block + p % block.

#pragma once
#include <math.h>

#include "numbers.h"

enum { MOST_BLOCK = 64 };    // places that decodes read at a time, at most
enum { PROMPT_BLOCK = 32 };  // those of a prompt: exactly
enum { MOST_WIDTH = 256 };   // of a head of a prompt

typedef struct {
    const void *queries, *keys, *values;
    void *out;
    const int32_t *blocks, *lengths, *rows;
    const float *sinks;  // a score per head that takes its share and adds nothing; or none
    long sequences, blocks_each, heads, kv_heads, head_dim, places, block, window;
    long query_stride;  // elements from one row to the next
    float scale, cap;   // `cap`: scores s become cap * tanh(s / cap); 0: as they are
} Attention;

// Scores that stay below a cap, where there is one.
INLINE vec bend(vec score, float cap)
{
    if (cap > 0)
        for (int i = 0; i < LANES; i++)
            score[i] = cap * tanhf(score[i] / cap);
    return score;
}
