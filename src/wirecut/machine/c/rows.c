// What stands between the products of a layer: norms, rotary embedding, gated activation. Each reads
// and writes its rows once and computes in fp32.

#include <math.h>

#include "kernels.h"

// out = x / rms(x) * weight, row by row
INLINE void norm_row(const void *x, const void *weight, void *out, long width, float eps, int bf16)
{
    vec squares = all(0);
    for (long i = 0; i < width; i += LANES) {
        vec v = load(x, i, bf16);
        squares += v * v;
    }
    float scale = 1 / sqrtf(sum_of(squares) / width + eps);
    for (long i = 0; i < width; i += LANES)
        store(out, i, load(x, i, bf16) * scale * load(weight, i, bf16), bf16);
}

void rms_norm(const void *x, const void *weight, void *out, long rows, long width, float eps,
              int bf16)
{
#pragma omp parallel for if (rows > FEW_ROWS)
    for (long r = 0; r < rows; r++) {
        const void *row = at(x, r * width, bf16);
        void *to = at(out, r * width, bf16);
        if (bf16)
            norm_row(row, weight, to, width, eps, 1);
        else
            norm_row(row, weight, to, width, eps, 0);
    }
}

// Every head of a row by itself, each with a weight of its own, in place. `stride`: elements from one
// row to the next.
void norm_heads(void *x, const void *weights, long rows, long stride, long heads, long width,
                float eps, int bf16)
{
#pragma omp parallel for if (rows > FEW_ROWS)
    for (long r = 0; r < rows; r++)
        for (long h = 0; h < heads; h++) {
            void *head = at(x, r * stride + h * width, bf16);
            const void *weight = at(weights, h * width, bf16);
            if (bf16)
                norm_row(head, weight, head, width, eps, 1);
            else
                norm_row(head, weight, head, width, eps, 0);
        }
}

// Turn the halves of the first `width` elements of each head by its row's angles, in place. Cosines
// and sines are (rows, width), the sines of the first half with their sign changed.
INLINE void rotate_row(void *x, const void *cosines, const void *sines, long heads, long head_dim,
                       long width, int bf16)
{
    long half = width / 2;
    for (long h = 0; h < heads; h++)
        for (long i = 0; i < half; i += LANES) {
            void *head = at(x, h * head_dim, bf16);
            vec a = load(head, i, bf16), b = load(head, half + i, bf16);
            vec low = a * load(cosines, i, bf16) + b * load(sines, i, bf16);
            vec high = b * load(cosines, half + i, bf16) + a * load(sines, half + i, bf16);
            store(head, i, low, bf16);
            store(head, half + i, high, bf16);
        }
}

// `stride`: elements from one row of x to the next
void rotate(void *x, const void *cosines, const void *sines, long rows, long stride, long heads,
            long head_dim, long width, int bf16)
{
#pragma omp parallel for if (rows > FEW_ROWS)
    for (long r = 0; r < rows; r++) {
        void *row = at(x, r * stride, bf16);
        const void *cosine = at(cosines, r * width, bf16), *sine = at(sines, r * width, bf16);
        if (bf16)
            rotate_row(row, cosine, sine, heads, head_dim, width, 1);
        else
            rotate_row(row, cosine, sine, heads, head_dim, width, 0);
    }
}

// out (rows, width) = silu(gate) * up, where a row of x is its gate and then its up.
INLINE void gate_row(const void *x, void *out, long width, int bf16)
{
    for (long i = 0; i < width; i += LANES) {
        vec gate = load(x, i, bf16), up = load(x, width + i, bf16);
        store(out, i, gate / (1 + exponential(-gate)) * up, bf16);
    }
}

void silu_gate(const void *x, void *out, long rows, long width, int bf16)
{
#pragma omp parallel for if (rows > FEW_ROWS)
    for (long r = 0; r < rows; r++) {
        const void *row = at(x, r * 2 * width, bf16);
        if (bf16)
            gate_row(row, at(out, r * width, bf16), width, 1);
        else
            gate_row(row, at(out, r * width, bf16), width, 0);
    }
}

// Each token's row of a table that holds tokens `first` and on, `held` of them; zeros for others.
void embed(const int64_t *tokens, const void *table, void *out, long rows, long width, long first,
           long held, int bf16)
{
    long bytes = width * (bf16 ? 2 : 4);
    for (long r = 0; r < rows; r++) {
        long token = tokens[r] - first;
        if (token >= 0 && token < held)
            memcpy(at(out, r * width, bf16), at(table, token * width, bf16), bytes);
        else
            memset(at(out, r * width, bf16), 0, bytes);
    }
}

// Each row's head (heads, width) to its slot of the cache (heads, places, width).
void keep(const void *x, void *cache, const int64_t *slots, long rows, long stride, long heads,
          long width, long places, int bf16)
{
    long bytes = width * (bf16 ? 2 : 4);
    for (long r = 0; r < rows; r++)
        for (long h = 0; h < heads; h++)
            memcpy(at(cache, (h * places + slots[r]) * width, bf16),
                   at(x, r * stride + h * width, bf16), bytes);
}
