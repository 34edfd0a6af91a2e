// Products of a few or many rows with a weight, in bf16 with sums in fp32.
//
// A weight (outs, ins) is stored in panels of 32 outputs, pairs of inputs side by side: (outs / 32,
// ins / 2, 32, 2). A product of one row so reads memory once from front to back; one of many reads
// each panel from the cache again. Every row sums in the same order whatever stands beside it.

#include "kernels.h"

#ifdef HAS_TILES
void pack_bf16(const bf16 *weight, bf16 *packed, long outs, long ins)
{
    long panels = (outs + PANEL - 1) / PANEL;
#pragma omp parallel for
    for (long p = 0; p < panels; p++)
        for (long pair = 0; pair < ins / 2; pair++)
            for (long o = 0; o < PANEL; o++) {
                long row = p * PANEL + o;
                uint32_t *to = (uint32_t *)packed + (p * (ins / 2) + pair) * PANEL + o;
                *to = row < outs ? ((const uint32_t *)(weight + row * ins))[pair] : 0;
            }
}

// The first `left` of a panel's outputs, with their bias if there is one.
static void store_panel(const __m512 sums[2], const bf16 *bias, bf16 *y, long left)
{
    for (long at = 0; at < PANEL && at < left; at += VECTOR) {
        __mmask16 mask = left - at < VECTOR ? (1u << (left - at)) - 1 : 0xffff;
        __m512 sum = sums[at / VECTOR];
        if (bias) {
            __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, bias + at));
            sum = _mm512_add_ps(sum, (__m512)_mm512_slli_epi32(wide, 16));
        }
        _mm256_mask_storeu_epi16(y + at, mask, (__m256i)_mm512_cvtneps_pbh(sum));
    }
}

// y (rows, outs) = x (rows, ins) @ weight.T + bias, which may be none
void linear_bf16(const bf16 *x, const bf16 *packed, const bf16 *bias, bf16 *y, long rows, long outs,
                 long ins)
{
    if (rows == 0)
        return;
    long panels = (outs + PANEL - 1) / PANEL, passes = (rows + MOST_ROWS - 1) / MOST_ROWS;
    long panel_bytes = PANEL * ins * sizeof(bf16), stride = 2 * 64 / passes;
#pragma omp parallel for
    for (long p = 0; p < panels; p++) {
        const bf16 *panel = packed + p * PANEL * ins;
        for (long pass = 0; pass < passes; pass++) {
            long first = rows * pass / passes, last = rows * (pass + 1) / passes;
            __m512 sums[MOST_ROWS][2];
            const char *ahead = (const char *)panel + panel_bytes + pass * stride * (ins / 2);
            TILES[last - first](x + first * ins, ins, panel, ahead, stride, sums);
            for (long r = first; r < last; r++)
                store_panel(sums[r - first], bias ? bias + p * PANEL : 0,
                            y + r * outs + p * PANEL, outs - p * PANEL);
        }
    }
}
#endif
