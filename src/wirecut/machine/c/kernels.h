// The kernels, as every file that has or calls one sees them.

#pragma once
#include "attention.h"
#include "tiles.h"

void embed(const int64_t *tokens, const void *table, void *out, long rows, long width, long first,
           long held, int bf16);
void rms_norm(const void *x, const void *weight, void *out, long rows, long width, float eps,
              int bf16);
void norm_heads(void *x, const void *weights, long rows, long stride, long heads, long width,
                float eps, int bf16);
void rotate(void *x, const void *cosines, const void *sines, long rows, long stride, long heads,
            long head_dim, long width, int bf16);
void silu_gate(const void *x, void *out, long rows, long width, int bf16);
void keep(const void *x, void *cache, const int64_t *slots, long rows, long stride, long heads,
          long width, long places, int bf16);
void decode_attention(const Attention *a, int bf16);
long all_reduce(void *x, void *const *slots, int64_t *const *flags, long rank, long size,
                long round, long count, long spins, int bf16);
#ifdef HAS_TILES
void pack_bf16(const bf16 *weight, bf16 *packed, long outs, long ins);
void linear_bf16(const bf16 *x, const bf16 *packed, const bf16 *bias, bf16 *y, long rows, long outs,
                 long ins);
long prompt_attention(const Attention *a, const int32_t *counts);
#endif
