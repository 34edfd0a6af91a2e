// Up to 12 rows times a panel of a matrix: what products and the attention of prompts are made of.

#pragma once
#include <stdint.h>

#if defined __AVX512BF16__ && !defined __AMX_BF16__  // oneDNN is faster with AMX
#define HAS_TILES
#include <immintrin.h>

typedef uint16_t bf16;
enum { PANEL = 32, VECTOR = 16, MOST_ROWS = 12 };

// R rows with one panel. Meanwhile `ahead`, a share of the next panel, is fetched, `stride` bytes a
// step: the memory is busy while the core is. Few rows leave it in the second cache, since the first
// is full of x and of this panel (8 and 16 rows: 10 per cent faster); the tiles that many rows are
// cut into want it in the first (128 rows: 3 per cent).
#define TILE(R, CACHE)                                                                             \
    static void tile_##R(const bf16 *x, long ins, const bf16 *panel, const char *ahead,            \
                         long stride, __m512 sums[][2])                                            \
    {                                                                                              \
        __m512 low[R], high[R];                                                                    \
        for (int r = 0; r < R; r++)                                                                \
            low[r] = high[r] = _mm512_setzero_ps();                                                \
        for (long pair = 0; pair < ins / 2; pair++) {                                              \
            const bf16 *w = panel + pair * PANEL * 2;                                              \
            __m512bh w_low = (__m512bh)_mm512_loadu_si512(w);                                      \
            __m512bh w_high = (__m512bh)_mm512_loadu_si512(w + PANEL);                             \
            _mm_prefetch(ahead + pair * stride, CACHE);                                            \
            _mm_prefetch(ahead + pair * stride + 64, CACHE);                                       \
            for (int r = 0; r < R; r++) {                                                          \
                __m512bh both = (__m512bh)_mm512_set1_epi32(((const int32_t *)(x + r * ins))[pair]); \
                low[r] = _mm512_dpbf16_ps(low[r], w_low, both);                                    \
                high[r] = _mm512_dpbf16_ps(high[r], w_high, both);                                 \
            }                                                                                      \
        }                                                                                          \
        for (int r = 0; r < R; r++)                                                                \
            sums[r][0] = low[r], sums[r][1] = high[r];                                             \
    }

#define SECOND _MM_HINT_T1
#define FIRST _MM_HINT_T0
TILE(1, SECOND)
TILE(2, SECOND)
TILE(3, SECOND)
TILE(4, SECOND)
TILE(5, SECOND)
TILE(6, SECOND)
TILE(7, SECOND)
TILE(8, SECOND)
TILE(9, SECOND)
TILE(10, SECOND)
TILE(11, FIRST)
TILE(12, FIRST)

typedef void (*Tile)(const bf16 *, long, const bf16 *, const char *, long, __m512[][2]);
static const Tile TILES[MOST_ROWS + 1] = {0,      tile_1, tile_2, tile_3, tile_4,  tile_5, tile_6,
                                          tile_7, tile_8, tile_9, tile_10, tile_11, tile_12};
#endif
