/* Products in float32 on CPUs with AVX2 or AVX-512; see kernels.py, which says how many LANES a register has.
 *
 * A "packed" matrix B (k, n) is stored as (n / COLUMNS, k, COLUMNS): a block of columns is contiguous. Every element of
 * the result is one sum along k, in order, by fused multiplication and addition: the same bits for any number of rows,
 * of threads and of LANES.
 */
#include <omp.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 6")

/* A tile of 6 rows times COLUMNS fills 12 of AVX2's 16 registers, 24 of AVX-512's 32. */
enum { TILE = 6, VECTORS = LANES == 8 ? 2 : 4, COLUMNS = VECTORS * LANES, ROWS = 96, DEPTH = 448, LINE = 64, AHEAD = 4096 };
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* c (m, COLUMNS) = a (m, depth) b (depth, COLUMNS), added to c unless `first`. Meanwhile `step` bytes per k, in so many cache
 * `lines`, are fetched from `ahead` on: memory is read while the registers work, which the hardware alone does not manage. */
INLINE void tile(const int m, const int lines, int64_t step, int64_t depth, const float *a, int64_t a_stride, const float *b,
                 float *c, int first, const char *ahead) {
    vec sum[TILE][VECTORS];
    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int j = 0; j < VECTORS; j++)
            sum[i][j] = first ? (vec){0} : *(const vec *)(c + i * COLUMNS + LANES * j);
    for (int64_t k = 0; k < depth; k++) {
        vec column[VECTORS];
        UNROLL for (int j = 0; j < VECTORS; j++) column[j] = *(const vec *)(b + COLUMNS * k + LANES * j);
        UNROLL for (int l = 0; l < lines; l++) __builtin_prefetch(ahead + step * k + LINE * l, 0, 2);
        UNROLL for (int i = 0; i < m; i++)
            UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] += a[i * a_stride + k] * column[j];
    }
    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int j = 0; j < VECTORS; j++) *(vec *)(c + i * COLUMNS + LANES * j) = sum[i][j];
}

#define TILES(m)                                                                                   \
    case m:                                                                                        \
        if (!step) tile(m, 0, step, depth, a, a_stride, b, c, first, ahead);                       \
        else if (step <= LINE) tile(m, 1, step, depth, a, a_stride, b, c, first, ahead);           \
        else if (step <= 2 * LINE) tile(m, 2, step, depth, a, a_stride, b, c, first, ahead);       \
        else tile(m, 4, step, depth, a, a_stride, b, c, first, ahead);                             \
        break;

static void one_tile(int64_t m, int64_t step, int64_t depth, const float *a, int64_t a_stride, const float *b, float *c,
                     int first, const char *ahead) {
    switch (m) { TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6) }
}

/* y (m, n) = x (m, k) w + bias; w (k, n) packed, n a multiple of COLUMNS. */
void linear(const float *x, const float *w, const float *bias, float *y, int64_t m, int64_t k, int64_t n) {
    int64_t blocks = n / COLUMNS, parts = (m + ROWS - 1) / ROWS, threads = omp_get_max_threads();
    while (parts * blocks < threads && parts < (m + TILE - 1) / TILE) parts++;
#pragma omp parallel
    {
        int64_t me = omp_get_thread_num(), of = omp_get_num_threads();
        int64_t from = parts * blocks * me / of, to = parts * blocks * (me + 1) / of;
        float c[ROWS * COLUMNS] __attribute__((aligned(64)));
        for (int64_t item = from; item < to; item++) {
            int64_t part = item / blocks, column = item % blocks * COLUMNS;
            int64_t row = m * part / parts, rows = m * (part + 1) / parts - row, tiles = (rows + TILE - 1) / TILE;
            for (int64_t k0 = 0; k0 < k; k0 += DEPTH) {
                int64_t depth = least(DEPTH, k - k0);
                const float *b = w + column * k + COLUMNS * k0;
                /* One tile reads b once, so what it fetches is its own next lines; several reread b, and the first of them
                 * share what follows it. Of the last block nothing follows. */
                int last = item + 1 == to && k0 + depth == k;
                int64_t fetching = last ? 0 : least(tiles, VECTORS), step = fetching ? (4 * COLUMNS + fetching - 1) / fetching : 0;
                const char *ahead = tiles == 1 ? (const char *)b + AHEAD : (const char *)(b + COLUMNS * depth);
                for (int64_t t = 0, at = 0; t < tiles; t++) {
                    int64_t height = (rows - at) / (tiles - t);
                    one_tile(height, t < fetching ? step : 0, depth, x + (row + at) * k + k0, k, b, c + at * COLUMNS, k0 == 0,
                             ahead + t * step * depth);
                    at += height;
                }
            }
            for (int64_t i = 0; i < rows; i++)
                for (int64_t j = 0; j < COLUMNS; j++)
                    y[(row + i) * n + column + j] = c[i * COLUMNS + j] + (bias ? bias[column + j] : 0);
        }
    }
}
