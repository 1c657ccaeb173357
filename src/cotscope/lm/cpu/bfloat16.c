/* Products and attention in bfloat16 on CPUs with AVX512-BF16; see kernels.py.
 *
 * Both halves of attention are products too, so one tile of registers does all of it: up to 6 rows times 64 columns.
 * A "packed" matrix B (k, n) is stored as (n / 64, k / 2, 64, 2): one load has two neighbours along k of 16 columns,
 * as vdpbf16ps wants them, and a block of 64 columns is contiguous.
 */
#include <immintrin.h>
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 6")

typedef uint16_t bf16;
enum { TILE = 6, LANES = 16, COLUMNS = 64, ROWS = 96, DEPTH = 896, QUERIES = 24, KEYS = 256, AHEAD = 4096 };

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t padded(int64_t n) { return (n + COLUMNS - 1) / COLUMNS * COLUMNS; }
static __m512 widened(const bf16 *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
static void narrowed(bf16 *p, __m512 x) { _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(x)); }

/* c (m, 64) = a (m, 2 pairs) b (2 pairs, 64), added to c unless `first`. Meanwhile `lines` cache lines per pair are
 * fetched from `ahead` on: memory is read while the registers work, which the hardware alone does not manage. */
INLINE void tile(const int m, const int lines, int64_t pairs, const bf16 *a, int64_t a_stride, const bf16 *b, float *c,
                 int64_t c_stride, int first, const char *ahead) {
    __m512 sum[TILE][4];
    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int j = 0; j < 4; j++)
            sum[i][j] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(c + i * c_stride + LANES * j);
    for (int64_t k = 0; k < pairs; k++) {
        __m512bh column[4];
        UNROLL for (int j = 0; j < 4; j++)
            column[j] = (__m512bh)_mm512_loadu_si512(b + 2 * COLUMNS * k + 2 * LANES * j);
        UNROLL for (int l = 0; l < lines; l++) _mm_prefetch(ahead + 64 * (lines * k + l), _MM_HINT_T1);
        UNROLL for (int i = 0; i < m; i++) {
            int pair;
            memcpy(&pair, a + i * a_stride + 2 * k, sizeof pair);
            __m512bh row = (__m512bh)_mm512_set1_epi32(pair);
            UNROLL for (int j = 0; j < 4; j++) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], row, column[j]);
        }
    }
    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int j = 0; j < 4; j++) _mm512_storeu_ps(c + i * c_stride + LANES * j, sum[i][j]);
}

#define TILES(m)                                                                                  \
    case m:                                                                                       \
        if (lines == 4) tile(m, 4, pairs, a, a_stride, b, c, c_stride, first, ahead);             \
        else if (lines == 2) tile(m, 2, pairs, a, a_stride, b, c, c_stride, first, ahead);        \
        else if (lines == 1) tile(m, 1, pairs, a, a_stride, b, c, c_stride, first, ahead);        \
        else tile(m, 0, pairs, a, a_stride, b, c, c_stride, first, ahead);                        \
        break;

static void one_tile(int64_t m, int lines, int64_t pairs, const bf16 *a, int64_t a_stride, const bf16 *b, float *c,
                     int64_t c_stride, int first, const char *ahead) {
    switch (m) { TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6) }
}

/* c (m, 64) = a (m, 2 pairs) b (2 pairs, 64) for any m, in tiles of about one height. With `ahead`, the block of
 * memory from there on, as long as b, is fetched into the cache. */
static void block(int64_t m, int64_t pairs, const bf16 *a, int64_t a_stride, const bf16 *b, float *c, int64_t c_stride,
                  int first, const char *ahead) {
    int64_t tiles = (m + TILE - 1) / TILE, row = 0;
    int lines = tiles == 1 ? 4 : tiles <= 3 ? 2 : 1; /* of the 4 lines per pair that b has, in each tile */
    for (int64_t t = 0; t < tiles; t++) {
        int64_t height = (m - row) / (tiles - t);
        int fetched = ahead && lines * (t + 1) <= 4 ? lines : 0;
        one_tile(height, fetched, pairs, a + row * a_stride, a_stride, b, c + row * c_stride, c_stride, first,
                 fetched ? ahead + 64 * lines * pairs * t : NULL);
        row += height;
    }
}

/* y (m, n) = x (m, k) w + bias, all bfloat16, sums in float32; w (k, n) packed, k even, n a multiple of 64. */
void linear(const bf16 *x, const bf16 *w, const bf16 *bias, bf16 *y, int64_t m, int64_t k, int64_t n) {
    int64_t blocks = n / COLUMNS, parts = (m + ROWS - 1) / ROWS, threads = omp_get_max_threads();
    while (parts * blocks < threads && parts < (m + TILE - 1) / TILE) parts++;
#pragma omp parallel
    {
        int64_t me = omp_get_thread_num(), of = omp_get_num_threads();
        int64_t from = parts * blocks * me / of, to = parts * blocks * (me + 1) / of;
        float c[ROWS * COLUMNS] __attribute__((aligned(64)));
        for (int64_t item = from; item < to; item++) {
            int64_t part = item / blocks, column = item % blocks * COLUMNS;
            int64_t row = m * part / parts, rows = m * (part + 1) / parts - row;
            for (int64_t k0 = 0; k0 < k; k0 += DEPTH) {
                int64_t depth = least(DEPTH, k - k0);
                const bf16 *b = w + column * k + COLUMNS * k0;
                /* One tile reads b once, so what it fetches is its own next lines; several reread b, and fetch what
                 * follows it. Of the last block nothing follows. */
                int last = item + 1 == to && k0 + depth == k;
                const char *ahead = rows <= TILE ? (const char *)b + AHEAD : (const char *)(b + COLUMNS * depth);
                block(rows, depth / 2, x + row * k + k0, k, b, c, COLUMNS, k0 == 0, last ? NULL : ahead);
            }
            for (int64_t i = 0; i < rows; i++)
                for (int64_t j = 0; j < COLUMNS; j += LANES) {
                    __m512 sum = _mm512_loadu_ps(c + i * COLUMNS + j);
                    if (bias) sum = _mm512_add_ps(sum, widened(bias + column + j));
                    narrowed(y + (row + i) * n + column + j, sum);
                }
        }
    }
}

/* Attention of queries (rows, heads, queries, dim) over keys and values (rows or 1, kv_heads, keys, dim). */
struct attention {
    const bf16 *query, *key, *value;
    bf16 *out;            /* (rows, queries, heads, dim), contiguous */
    float *state;         /* (rows, heads, queries, dim + 2): sum of weights times values, their maximum, their sum */
    const int64_t *index; /* the rows that take part (count,), or NULL: the first `count` */
    const int64_t *ends;  /* keys that a row sees, (rows,); NULL: `keys` */
    int64_t count, heads, kv_heads, queries, dim, keys;
    int64_t query_row, query_head, query_position; /* strides, in elements; dim is contiguous */
    int64_t key_row, key_head, key_position, value_row, value_head, value_position;
    int64_t shared; /* one row of keys and values for all */
    int64_t causal; /* query p sees the keys 0…p */
    int64_t begins; /* state is not there yet */
    int64_t finishes; /* out is wanted, not state */
    double scale;
};

/* 16 rows of 16 pairs each, `stride` apart, transposed; rows beyond `rows` are zero. */
static void transposed(const bf16 *from, int64_t stride, int64_t rows, bf16 *to, int64_t to_stride) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i++)
        a[i] = i < rows ? _mm512_loadu_si512(from + i * stride) : _mm512_setzero_si512();
    for (int i = 0; i < 8; i++) {
        b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        a[4 * i] = _mm512_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
        a[4 * i + 1] = _mm512_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
        a[4 * i + 2] = _mm512_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
        a[4 * i + 3] = _mm512_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
        b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
        b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
        b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        _mm512_storeu_si512(to + i * to_stride, _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88));
        _mm512_storeu_si512(to + (i + 8) * to_stride, _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd));
    }
}

/* Keys (n, dim) as a packed matrix (dim, padded n), values (n, dim) as a packed matrix (padded n, dim). */
static void pack_keys(const bf16 *key, int64_t stride, int64_t n, int64_t dim, bf16 *to) {
    for (int64_t k = 0; k < padded(n); k += 16)
        for (int64_t d = 0; d < dim; d += 32)
            transposed(key + k * stride + d, stride, n - k, to + k / COLUMNS * COLUMNS * dim + d * COLUMNS + k % COLUMNS * 2,
                       2 * COLUMNS);
}
static void pack_values(const bf16 *value, int64_t stride, int64_t n, int64_t dim, bf16 *to) {
    int16_t low[32], high[32];
    for (int i = 0; i < 32; i++) low[i] = (i & 1) << 5 | i >> 1, high[i] = low[i] + 16;
    __m512i lows = _mm512_loadu_si512(low), highs = _mm512_loadu_si512(high);
    int64_t all = padded(n);
    for (int64_t k = 0; k < all; k += 2)
        for (int64_t d = 0; d < dim; d += 32) {
            __m512i a = k < n ? _mm512_loadu_si512(value + k * stride + d) : _mm512_setzero_si512();
            __m512i b = k + 1 < n ? _mm512_loadu_si512(value + (k + 1) * stride + d) : _mm512_setzero_si512();
            bf16 *at = to + d / COLUMNS * COLUMNS * all + k * COLUMNS + d % COLUMNS * 2;
            _mm512_storeu_si512(at, _mm512_permutex2var_epi16(a, lows, b));
            _mm512_storeu_si512(at + 32, _mm512_permutex2var_epi16(a, highs, b));
        }
}

/* 2^x for |x| <= 126, and 0 for what is far less; Taylor's series to the 6th power, relative error 2e-7. */
INLINE __m512 power_of_two(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-150)); /* far enough for 0; -inf would become no number below */
    __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = _mm512_sub_ps(x, whole);
    __m512 y = _mm512_set1_ps(1.5403530e-4f);
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.3333558e-3f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(9.6181291e-3f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(5.5504109e-2f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(2.4022651e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(6.9314718e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1));
    return _mm512_scalef_ps(y, whole);
}

/* One query's weights 2^(score * factor - maximum) of `width` keys, of which it sees the first `seen`. Its sum of
 * values is scaled when the maximum grows. */
static void weigh(const float *score, bf16 *weight, int64_t width, int64_t seen, float factor, float *values, int64_t dim,
                  float *maximum, float *sum) {
    __m512 top = _mm512_set1_ps(-INFINITY), scale = _mm512_set1_ps(factor);
    int64_t whole = seen / LANES * LANES;
    __mmask16 some = (1 << (seen - whole)) - 1;
    for (int64_t k = 0; k < whole; k += LANES) top = _mm512_max_ps(top, _mm512_loadu_ps(score + k));
    if (some) top = _mm512_mask_max_ps(top, some, top, _mm512_loadu_ps(score + whole));
    float highest = fmaxf(*maximum, _mm512_reduce_max_ps(top) * factor), shrink = exp2f(*maximum - highest);
    if (shrink != 1)
        for (int64_t d = 0; d < dim; d += LANES)
            _mm512_storeu_ps(values + d, _mm512_mul_ps(_mm512_loadu_ps(values + d), _mm512_set1_ps(shrink)));
    __m512 total = _mm512_setzero_ps(), shift = _mm512_set1_ps(highest);
    for (int64_t k = 0; k < whole; k += LANES) {
        __m512 w = power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(score + k), scale, shift));
        total = _mm512_add_ps(total, w);
        narrowed(weight + k, w);
    }
    if (whole < width) memset(weight + whole, 0, (width - whole) * sizeof(bf16));
    if (some) {
        __m512 w = power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(score + whole), scale, shift));
        w = _mm512_maskz_mov_ps(some, w);
        total = _mm512_add_ps(total, w);
        narrowed(weight + whole, w);
    }
    *maximum = highest;
    *sum = *sum * shrink + _mm512_reduce_add_ps(total);
}

/* Queries from…to of one set (those of a key head that see the same keys), counted by row, position and head. */
static void attend_some(const struct attention *a, int64_t head, int64_t row, int64_t from, int64_t to, const bf16 *keys,
                        const bf16 *values, int64_t all) {
    int64_t dim = a->dim, group = a->heads / a->kv_heads, n = to - from, longest = 0;
    bf16 query[n * dim], weight[n * KEYS];
    float score[n * KEYS], sum[n * dim], maximum[n], total[n], *state[n];
    bf16 *out[n];
    int64_t seen[n];
    for (int64_t i = 0; i < n; i++) {
        int64_t f = from + i, g = f % group, p = f / group % a->queries, r = a->shared ? f / group / a->queries : row;
        if (a->index) r = a->index[r];
        int64_t h = head * group + g;
        memcpy(query + i * dim, a->query + r * a->query_row + h * a->query_head + p * a->query_position, dim * sizeof(bf16));
        state[i] = a->state + ((r * a->heads + h) * a->queries + p) * (dim + 2);
        out[i] = a->out + ((r * a->queries + p) * a->heads + h) * dim;
        seen[i] = a->causal ? p + 1 : a->ends ? a->ends[r] : a->keys;
        if (seen[i] > longest) longest = seen[i];
        if (a->begins) {
            memset(sum + i * dim, 0, dim * sizeof(float));
            maximum[i] = -INFINITY, total[i] = 0;
        } else {
            memcpy(sum + i * dim, state[i], dim * sizeof(float));
            maximum[i] = state[i][dim], total[i] = state[i][dim + 1];
        }
    }
    for (int64_t k0 = 0; k0 < longest; k0 += KEYS) {
        int64_t width = padded(least(KEYS, longest - k0));
        for (int64_t k = 0; k < width; k += COLUMNS)
            block(n, dim / 2, query, dim, keys + (k0 + k) * dim, score + k, KEYS, 1, NULL);
        for (int64_t i = 0; i < n; i++) {
            int64_t visible = least(width, seen[i] - k0);
            if (visible <= 0) memset(weight + i * KEYS, 0, width * sizeof(bf16));
            else weigh(score + i * KEYS, weight + i * KEYS, width, visible, a->scale * M_LOG2E, sum + i * dim, dim,
                       maximum + i, total + i);
        }
        for (int64_t d = 0; d < dim; d += COLUMNS)
            block(n, width / 2, weight, KEYS, values + d * all + k0 * COLUMNS, sum + d, dim, 0, NULL);
    }
    for (int64_t i = 0; i < n; i++)
        if (a->finishes)
            for (int64_t d = 0; d < dim; d += LANES)
                narrowed(out[i] + d, _mm512_mul_ps(_mm512_loadu_ps(sum + i * dim + d), _mm512_set1_ps(1 / total[i])));
        else {
            memcpy(state[i], sum + i * dim, dim * sizeof(float));
            state[i][dim] = maximum[i], state[i][dim + 1] = total[i];
        }
}

void attend(const struct attention *a) {
    int64_t sets = a->shared ? 1 : a->count, group = a->heads / a->kv_heads;
    int64_t members = group * a->queries * (a->shared ? a->count : 1), parts = (members + QUERIES - 1) / QUERIES;
    int64_t most = padded(a->keys) * a->dim;
#pragma omp parallel
    {
        bf16 *keys = aligned_alloc(64, 2 * most * sizeof(bf16) + 64), *values = keys + most;
        int64_t packed = -1; /* the set that stands there */
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < a->kv_heads * sets * parts; item++) {
            int64_t set = item / parts, part = item % parts, head = set % a->kv_heads, row = set / a->kv_heads;
            int64_t at = a->shared ? 0 : a->index ? a->index[row] : row;
            int64_t n = a->causal || !a->ends ? a->keys : a->ends[at];
            if (set != packed) {
                pack_keys(a->key + at * a->key_row + head * a->key_head, a->key_position, n, a->dim, keys);
                pack_values(a->value + at * a->value_row + head * a->value_head, a->value_position, n, a->dim, values);
                packed = set;
            }
            attend_some(a, head, row, members * part / parts, members * (part + 1) / parts, keys, values, padded(n));
        }
        free(keys);
    }
}
