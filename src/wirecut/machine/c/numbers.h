// Numbers as the kernels read, compute and write them: bf16 or fp32 in memory, fp32 in registers.

#pragma once
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

enum { LANES = 16 };
enum { FEW_ROWS = 16 };  // not worth waking threads for
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef uint16_t narrow_vec __attribute__((vector_size(2 * LANES)));

#define INLINE static inline __attribute__((always_inline))

// gcc 12 makes three instructions of this conversion where there is one.
INLINE uvec widen(narrow_vec bits)
{
#ifdef __AVX512F__
    return (uvec)_mm512_cvtepu16_epi32((__m256i)bits);
#else
    return __builtin_convertvector(bits, uvec);
#endif
}

// Elements i to i + 15 of a row; `bf16` is a constant wherever this is compiled in.
INLINE vec load(const void *row, long i, int bf16)
{
    vec wide;
    if (!bf16) {
        memcpy(&wide, (const float *)row + i, sizeof wide);
        return wide;
    }
    narrow_vec bits;
    memcpy(&bits, (const uint16_t *)row + i, sizeof bits);
    return (vec)(widen(bits) << 16);
}

INLINE void store(void *row, long i, vec x, int bf16)
{
    if (!bf16) {
        memcpy((float *)row + i, &x, sizeof x);
        return;
    }
    uvec bits = (uvec)x;
    bits += 0x7fff + ((bits >> 16) & 1);  // to nearest, ties to even
    narrow_vec narrow = __builtin_convertvector(bits >> 16, narrow_vec);
    memcpy((uint16_t *)row + i, &narrow, sizeof narrow);
}

// The address of element i.
INLINE void *at(const void *row, long i, int bf16) { return (char *)row + i * (bf16 ? 2 : 4); }

INLINE vec all(float x) { return x - (vec){0}; }

INLINE vec choose(ivec where, vec yes, vec no)
{
    return (vec)((where & (ivec)yes) | (~where & (ivec)no));
}

static const ivec LANE = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// In lanes without `bit` a's sums with the lane that has it, in the others b's.
INLINE vec halve(vec a, vec b, int bit)
{
    ivec own = LANE + (((LANE & bit) != 0) & LANES);
    return __builtin_shuffle(a, b, own) + __builtin_shuffle(a, b, own ^ bit);
}

// Lane i: the sum over the lanes of x[i]. Overwrites x.
INLINE vec sums_of(vec *x)
{
    for (int i = 0; i < 8; i++)
        x[i] = halve(x[2 * i], x[2 * i + 1], 1);
    for (int i = 0; i < 4; i++)
        x[i] = halve(x[2 * i], x[2 * i + 1], 2);
    for (int i = 0; i < 2; i++)
        x[i] = halve(x[2 * i], x[2 * i + 1], 4);
    return halve(x[0], x[1], 8);
}

INLINE float sum_of(vec x)
{
    x += __builtin_shuffle(x, LANE ^ 8);
    x += __builtin_shuffle(x, LANE ^ 4);
    x += __builtin_shuffle(x, LANE ^ 2);
    return x[0] + x[1];
}

INLINE vec greater(vec a, vec b) { return choose((a > b) | (a != a), a, b); }

INLINE float greatest(vec x)
{
    x = greater(x, __builtin_shuffle(x, LANE ^ 8));
    x = greater(x, __builtin_shuffle(x, LANE ^ 4));
    x = greater(x, __builtin_shuffle(x, LANE ^ 2));
    x = greater(x, __builtin_shuffle(x, LANE ^ 1));
    return x[0];
}

// e^x to 2e-7: 2^whole by the exponent's bits, 2^part by its Taylor series, |part| <= 1/2.
INLINE vec exponential(vec x)
{
    x = choose(x < -87.0f, all(-87.0f), choose(x > 88.0f, all(88.0f), x));
    vec turned = x * 1.44269504f;
    vec whole = (turned + 12582912.0f) - 12582912.0f;  // 1.5 x 2^23: rounds to an integer
    vec part = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;  // ln 2 in two pieces
    vec y = part * (1 / 720.0f) + 1 / 120.0f;
    y = y * part + 1 / 24.0f;
    y = y * part + 1 / 6.0f;
    y = y * part + 0.5f;
    y = y * part + 1.0f;
    y = y * part + 1.0f;
    return (vec)((ivec)y + (__builtin_convertvector(whole, ivec) << 23));
}
