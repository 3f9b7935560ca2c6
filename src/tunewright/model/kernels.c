/* Fused passes over bf16 activations for processors with AVX512-BF16; kernels.py compiles and calls them.
 *
 * Each function reads its operands once, computes in fp32 and writes bf16. Matrix products of linear
 * layers are not here: oneDNN's are near the machine's limit. Attention is, for torch's processor
 * kernel takes several times as long as the arithmetic. Every sum runs in an order that depends on
 * shapes alone, never on threads, so that the same input gives the same bits.
 *
 * Sources: RMSNorm (Zhang and Sennrich 2019), SwiGLU (Shazeer 2020), rotary positions (Su et al. 2021),
 * attention without a stored score matrix (Dao et al. 2022), Adam with decoupled decay (Loshchilov and
 * Hutter 2019).
 *
 * Shapes: N tokens of all rows one after the other, H width, I inner width, D head width (16 | D).
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;
typedef int64_t i64;
#define INLINE static inline __attribute__((always_inline))

INLINE __mmask16 tail(i64 left) { return left >= 16 ? 0xFFFF : (__mmask16)((1u << left) - 1); }

INLINE __m512 load(const bf16 *p, __mmask16 m) {
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, p)), 16));
}

INLINE void store(bf16 *p, __mmask16 m, __m512 v) {
    _mm256_mask_storeu_epi16(p, m, (__m256i)_mm512_cvtneps_pbh(v));
}

/* e^x for x <= 88; relative error below 2e-7 (Cephes' expf polynomial). */
INLINE __m512 exp_ps(__m512 x) {
    /* x comes second, so that NaN stays NaN. */
    x = _mm512_max_ps(_mm512_set1_ps(-87.3f), _mm512_min_ps(_mm512_set1_ps(88.0f), x));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(p, n);
}

/* 32 random bits a lane from a counter: a bijection with full avalanche ("lowbias32", Wellons 2018). */
INLINE __m512i scramble(__m512i x) {
    x = _mm512_xor_si512(x, _mm512_srli_epi32(x, 16));
    x = _mm512_mullo_epi32(x, _mm512_set1_epi32(0x7feb352d));
    x = _mm512_xor_si512(x, _mm512_srli_epi32(x, 15));
    x = _mm512_mullo_epi32(x, _mm512_set1_epi32((int)0x846ca68bu));
    return _mm512_xor_si512(x, _mm512_srli_epi32(x, 16));
}

/* Lanes that dropout keeps, of places at..at+15 in a stream; drop is the share in 2^-32. */
INLINE __mmask16 kept(uint32_t stream, i64 at, uint32_t drop) {
    __m512i place = _mm512_add_epi32(_mm512_set1_epi32((int)(stream + (uint32_t)at)),
                                     _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    return _mm512_cmpge_epu32_mask(scramble(place), _mm512_set1_epi32((int)drop));
}

/* Where the random numbers of a line start: the same for forward and backward, whoever computes it. */
INLINE uint32_t stream_of(uint32_t seed, i64 line) {
    __m512i x = scramble(_mm512_set1_epi32((int)(seed + 0x9e3779b9u * (uint32_t)line)));
    return (uint32_t)_mm_cvtsi128_si32(_mm512_castsi512_si128(x));
}

INLINE uint32_t threshold(float share) { return (uint32_t)(share * 4294967296.0); }

/* y = w x rstd; rstd_N kept for the backward pass. */
void rms_norm(const bf16 *x, const bf16 *w, bf16 *y, float *rstd, i64 N, i64 H, float eps, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (i64 n = 0; n < N; n++) {
        const bf16 *xn = x + n * H;
        __m512 sum = _mm512_setzero_ps();
        for (i64 h = 0; h < H; h += 16) {
            __m512 v = load(xn + h, tail(H - h));
            sum = _mm512_fmadd_ps(v, v, sum);
        }
        float r = 1.0f / sqrtf(_mm512_reduce_add_ps(sum) / (float)H + eps);
        rstd[n] = r;
        __m512 scale = _mm512_set1_ps(r);
        for (i64 h = 0; h < H; h += 16) {
            __mmask16 m = tail(H - h);
            store(y + n * H + h, m, _mm512_mul_ps(_mm512_mul_ps(load(xn + h, m), scale), load(w + h, m)));
        }
    }
}

/* dx = d(norm) + skip: the gradient that reaches x through the norm and past it. dx may be dy or skip. */
void rms_norm_backward(const bf16 *dy, const bf16 *x, const bf16 *w, const float *rstd, const bf16 *skip,
                       bf16 *dx, i64 N, i64 H, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (i64 n = 0; n < N; n++) {
        const bf16 *xn = x + n * H, *dn = dy + n * H;
        __m512 sum = _mm512_setzero_ps();
        for (i64 h = 0; h < H; h += 16) {
            __mmask16 m = tail(H - h);
            sum = _mm512_fmadd_ps(_mm512_mul_ps(load(dn + h, m), load(w + h, m)), load(xn + h, m), sum);
        }
        float r = rstd[n];
        __m512 scale = _mm512_set1_ps(r);
        __m512 back = _mm512_set1_ps(-_mm512_reduce_add_ps(sum) * r * r * r / (float)H);
        for (i64 h = 0; h < H; h += 16) {
            __mmask16 m = tail(H - h);
            __m512 v = _mm512_mul_ps(_mm512_mul_ps(load(dn + h, m), load(w + h, m)), scale);
            v = _mm512_fmadd_ps(load(xn + h, m), back, v);
            store(dx + n * H + h, m, _mm512_add_ps(v, load(skip + n * H + h, m)));
        }
    }
}

/* Rotate heads in place; cos_NR, sin_NR fp32 with R = D / 2; sign -1 turns back. */
void rotate(bf16 *x, const float *cosine, const float *sine, i64 N, i64 heads, i64 D, float sign, int threads) {
    i64 R = D / 2;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (i64 n = 0; n < N; n++)
        for (i64 a = 0; a < heads; a++) {
            bf16 *lower = x + (n * heads + a) * D, *upper = lower + R;
            for (i64 i = 0; i < R; i += 16) {
                __mmask16 m = tail(R - i);
                __m512 c = _mm512_maskz_loadu_ps(m, cosine + n * R + i);
                __m512 s = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, sine + n * R + i), _mm512_set1_ps(sign));
                __m512 p = load(lower + i, m), q = load(upper + i, m);
                store(lower + i, m, _mm512_fnmadd_ps(q, s, _mm512_mul_ps(p, c)));
                store(upper + i, m, _mm512_fmadd_ps(p, s, _mm512_mul_ps(q, c)));
            }
        }
}

INLINE __m512 sigmoid(__m512 g) {
    __m512 one = _mm512_set1_ps(1.0f);
    return _mm512_div_ps(one, _mm512_add_ps(one, exp_ps(_mm512_sub_ps(_mm512_setzero_ps(), g))));
}

/* y = silu(g) u */
void silu_mul(const bf16 *g, const bf16 *u, bf16 *y, i64 count, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (i64 block = 0; block < (count + 1023) / 1024; block++)
        for (i64 i = block * 1024; i < count && i < (block + 1) * 1024; i += 16) {
            __mmask16 m = tail(count - i);
            __m512 gi = load(g + i, m);
            store(y + i, m, _mm512_mul_ps(_mm512_mul_ps(gi, sigmoid(gi)), load(u + i, m)));
        }
}

/* Overwrites g and u with their gradients, and dy with y itself, which the layer below needs again. */
void silu_mul_backward(bf16 *dy, bf16 *g, bf16 *u, i64 count, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (i64 block = 0; block < (count + 1023) / 1024; block++)
        for (i64 i = block * 1024; i < count && i < (block + 1) * 1024; i += 16) {
            __mmask16 m = tail(count - i);
            __m512 gi = load(g + i, m), ui = load(u + i, m), d = load(dy + i, m);
            __m512 s = sigmoid(gi), silu = _mm512_mul_ps(gi, s);
            /* silu' = s + silu (1 - s) */
            __m512 slope = _mm512_fmadd_ps(silu, _mm512_sub_ps(_mm512_set1_ps(1.0f), s), s);
            store(g + i, m, _mm512_mul_ps(_mm512_mul_ps(d, ui), slope));
            store(u + i, m, _mm512_mul_ps(d, silu));
            store(dy + i, m, _mm512_mul_ps(silu, ui));
        }
}

/* Per row of logits_NV: the smoothed cross-entropy into losses_N, and in place of the logits weight_N
 * times its gradient. Source: Liger kernel's idea of taking the gradient while the logits are at hand. */
void cross_entropy(bf16 *logits, const i64 *target, const float *weight, float *losses, i64 N, i64 V,
                   float smoothing, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (i64 n = 0; n < N; n++) {
        bf16 *x = logits + n * V;
        __m512 top = _mm512_set1_ps(-INFINITY), all = _mm512_setzero_ps(), sum = _mm512_setzero_ps();
        for (i64 v = 0; v < V; v += 16) {
            __mmask16 m = tail(V - v);
            __m512 xi = load(x + v, m);
            top = _mm512_mask_max_ps(top, m, top, xi);
            all = _mm512_add_ps(all, xi);
        }
        float most = _mm512_reduce_max_ps(top);
        __m512 shift = _mm512_set1_ps(most);
        for (i64 v = 0; v < V; v += 16) {
            __mmask16 m = tail(V - v);
            sum = _mm512_mask_add_ps(sum, m, sum, exp_ps(_mm512_sub_ps(load(x + v, m), shift)));
        }
        float lse = most + logf(_mm512_reduce_add_ps(sum)), even = smoothing / (float)V;
        uint32_t bits = (uint32_t)x[target[n]] << 16;
        float hit;
        memcpy(&hit, &bits, 4);
        losses[n] = lse - (1.0f - smoothing) * hit - even * _mm512_reduce_add_ps(all);
        __m512 w = _mm512_set1_ps(weight[n]), back = _mm512_set1_ps(lse), share = _mm512_set1_ps(even);
        float p = expf(hit - lse) - even - (1.0f - smoothing);
        for (i64 v = 0; v < V; v += 16) {
            __mmask16 m = tail(V - v);
            __m512 e = exp_ps(_mm512_sub_ps(load(x + v, m), back));
            store(x + v, m, _mm512_mul_ps(_mm512_sub_ps(e, share), w));
        }
        store(x + target[n], 1, _mm512_set1_ps(p * weight[n]));
    }
}

/* ---- attention over packed rows ---- */

/* C_MN (+)= A_MK B_KN. A: pairs of bf16 along K, found at a + i * row + k * step (in pairs).
 * B: for each pair of K, N pairs side by side (ldb pairs a line). N is 16 times vectors. */
INLINE void tile(const int rows, const int vectors, i64 K2, const uint32_t *a, i64 row, i64 step,
                 const uint32_t *b, i64 ldb, float *c, i64 ldc, int add) {
    __m512 acc[6][4];
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++)
            acc[i][j] = add ? _mm512_loadu_ps(c + i * ldc + 16 * j) : _mm512_setzero_ps();
    for (i64 k = 0; k < K2; k++) {
        __m512i bk[4];
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) bk[j] = _mm512_loadu_si512(b + k * ldb + 16 * j);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            __m512bh ai = (__m512bh)_mm512_set1_epi32((int)a[i * row + k * step]);
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++)
                acc[i][j] = _mm512_dpbf16_ps(acc[i][j], ai, (__m512bh)bk[j]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) _mm512_storeu_ps(c + i * ldc + 16 * j, acc[i][j]);
}

#define STRIP(V)                                                                                 \
    for (; i + 6 <= M; i += 6) tile(6, V, K2, a + i * row, row, step, b + n, ldb, c + i * ldc + n, ldc, add); \
    switch (M - i) {                                                                             \
    case 5: tile(5, V, K2, a + i * row, row, step, b + n, ldb, c + i * ldc + n, ldc, add); break; \
    case 4: tile(4, V, K2, a + i * row, row, step, b + n, ldb, c + i * ldc + n, ldc, add); break; \
    case 3: tile(3, V, K2, a + i * row, row, step, b + n, ldb, c + i * ldc + n, ldc, add); break; \
    case 2: tile(2, V, K2, a + i * row, row, step, b + n, ldb, c + i * ldc + n, ldc, add); break; \
    case 1: tile(1, V, K2, a + i * row, row, step, b + n, ldb, c + i * ldc + n, ldc, add); break; \
    }

static void product(i64 M, i64 N, i64 K2, const uint32_t *a, i64 row, i64 step, const uint32_t *b, i64 ldb,
                    float *c, i64 ldc, int add) {
    for (i64 n = 0; n < N;) {
        i64 i = 0, left = (N - n) / 16;
        if (left >= 4) { STRIP(4) n += 64; }
        else if (left >= 2) { STRIP(2) n += 32; }
        else { STRIP(1) n += 16; }
    }
}

/* out[d/2][t] = the pair (x[t][d], x[t][d+1]): B operand of products over d. Columns T..Tp become 0. */
static void pack_across(const bf16 *x, i64 stride, i64 T, i64 Tp, i64 D, uint32_t *out) {
    for (i64 t = 0; t < Tp; t++)
        for (i64 p = 0; p < D / 2; p++) {
            uint32_t v = 0;
            if (t < T) memcpy(&v, x + t * stride + 2 * p, 4);
            out[p * Tp + t] = v;
        }
}

/* out[t/2][d] = the pair (x[t][d], x[t+1][d]): B operand of products over t. Lines past T become 0. */
static void pack_down(const bf16 *x, i64 stride, i64 T, i64 Tp, i64 D, uint32_t *out) {
    for (i64 t = 0; t < Tp; t += 2)
        for (i64 d = 0; d < D; d += 16) {
            __m256i low = t < T ? _mm256_loadu_si256((const void *)(x + t * stride + d)) : _mm256_setzero_si256();
            __m256i high = t + 1 < T ? _mm256_loadu_si256((const void *)(x + (t + 1) * stride + d))
                                     : _mm256_setzero_si256();
            _mm512_storeu_si512(out + t / 2 * D + d,
                                _mm512_or_si512(_mm512_cvtepu16_epi32(low),
                                                _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16)));
        }
}

/* Two fp32 lines of length n as pairs (first, second), the A operand of products over lines. */
INLINE void interleave(const float *first, const float *second, i64 n, uint32_t *out) {
    for (i64 i = 0; i < n; i += 16) {
        __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(first + i)));
        __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(second + i)));
        _mm512_storeu_si512(out + i, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
}

#define BLOCK 32

/* Returns 1 where memory ran out, and then the results are not to be used.
 * Rows start at starts_R1[r]; q_NAD with A heads, k and v_NGD with G; A / G query heads share one of k.
 * o_NAD; lse_NA is the log of the sum of exponentials, for the backward pass. */
int attention(const bf16 *q, const bf16 *k, const bf16 *v, const i64 *starts, i64 R, i64 A, i64 G, i64 D,
               float scale, int causal, float dropout, i64 seed, bf16 *o, float *lse, int threads) {
    uint32_t drop = threshold(dropout);
    i64 longest = 0, share = A / G, qs = A * D, ks = G * D;
    for (i64 r = 0; r < R; r++) if (starts[r + 1] - starts[r] > longest) longest = starts[r + 1] - starts[r];
    i64 most = (longest + 15) / 16 * 16;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        uint32_t *kp = aligned_alloc(64, most * D * 2), *vp = aligned_alloc(64, most * D * 2);
        float *s = aligned_alloc(64, BLOCK * most * 4), *out = aligned_alloc(64, BLOCK * D * 4);
        bf16 *p = aligned_alloc(64, BLOCK * most * 2);
        failed = !(kp && vp && s && out && p);
#pragma omp for schedule(dynamic)
        for (i64 task = 0; task < R * G; task++) {
            if (failed) continue;
            i64 r = R - 1 - task / G, g = task % G, first = starts[r], T = starts[r + 1] - first;
            i64 Tp = (T + 15) / 16 * 16;
            pack_across(k + first * ks + g * D, ks, T, Tp, D, kp);
            pack_down(v + first * ks + g * D, ks, T, Tp, D, vp);
            for (i64 a = g * share; a < (g + 1) * share; a++)
                for (i64 at = 0; at < T; at += BLOCK) {
                    i64 M = T - at < BLOCK ? T - at : BLOCK, seen = causal ? at + M : T;
                    i64 wide = (seen + 15) / 16 * 16;
                    const bf16 *qa = q + (first + at) * qs + a * D;
                    product(M, wide, D / 2, (const uint32_t *)qa, qs / 2, 1, kp, Tp, s, wide, 0);
                    for (i64 i = 0; i < M; i++) {
                        float *si = s + i * wide;
                        i64 end = causal ? at + i + 1 : T;
                        __m512 top = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
                        for (i64 j = 0; j < end; j += 16)
                            top = _mm512_mask_max_ps(top, tail(end - j), top, _mm512_loadu_ps(si + j));
                        float shift = _mm512_reduce_max_ps(top) * scale;
                        for (i64 j = 0; j < wide; j += 16) {
                            __mmask16 m = j >= end ? 0 : tail(end - j);
                            __m512 e = _mm512_maskz_mov_ps(m, exp_ps(_mm512_fmsub_ps(
                                _mm512_loadu_ps(si + j), _mm512_set1_ps(scale), _mm512_set1_ps(shift))));
                            sum = _mm512_add_ps(sum, e);
                            _mm512_storeu_ps(si + j, e);
                        }
                        float total = _mm512_reduce_add_ps(sum);
                        lse[(first + at + i) * A + a] = shift + logf(total);
                        __m512 part = _mm512_set1_ps(1.0f / (total * (1.0f - dropout)));
                        uint32_t stream = stream_of((uint32_t)seed, (first + at + i) * A + a);
                        for (i64 j = 0; j < wide; j += 16) {
                            __m512 e = _mm512_mul_ps(_mm512_loadu_ps(si + j), part);
                            store(p + i * wide + j, 0xFFFF,
                                  drop ? _mm512_maskz_mov_ps(kept(stream, j, drop), e) : e);
                        }
                    }
                    product(M, D, wide / 2, (const uint32_t *)p, wide / 2, 1, vp, D, out, D, 0);
                    for (i64 i = 0; i < M; i++)
                        for (i64 d = 0; d < D; d += 16)
                            store(o + (first + at + i) * qs + a * D + d, 0xFFFF, _mm512_loadu_ps(out + i * D + d));
                }
        }
        free(kp), free(vp), free(s), free(out), free(p);
    }
    return failed;
}

/* Gradients of attention; returns as attention does. dq, dk, dv have the shapes of q, k, v. */
int attention_backward(const bf16 *dout, const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *o,
                        const float *lse, const i64 *starts, i64 R, i64 A, i64 G, i64 D, float scale,
                        int causal, float dropout, i64 seed, bf16 *dq, bf16 *dk, bf16 *dv, int threads) {
    uint32_t drop = threshold(dropout);
    __m512 grow = _mm512_set1_ps(1.0f / (1.0f - dropout));
    i64 longest = 0, share = A / G, qs = A * D, ks = G * D;
    for (i64 r = 0; r < R; r++) if (starts[r + 1] - starts[r] > longest) longest = starts[r + 1] - starts[r];
    i64 most = (longest + 15) / 16 * 16;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        uint32_t *ka = aligned_alloc(64, most * D * 2), *kd = aligned_alloc(64, most * D * 2);
        uint32_t *va = aligned_alloc(64, most * D * 2);
        uint32_t *qd = aligned_alloc(64, BLOCK * D * 2), *od = aligned_alloc(64, BLOCK * D * 2);
        float *s = aligned_alloc(64, BLOCK * most * 4), *t = aligned_alloc(64, BLOCK * most * 4);
        uint32_t *pairs = aligned_alloc(64, BLOCK / 2 * most * 4);
        bf16 *ds = aligned_alloc(64, BLOCK * most * 2);
        float *sumk = aligned_alloc(64, most * D * 4), *sumv = aligned_alloc(64, most * D * 4);
        float *out = aligned_alloc(64, BLOCK * D * 4);
        failed = !(ka && kd && va && qd && od && s && t && pairs && ds && sumk && sumv && out);
#pragma omp for schedule(dynamic)
        for (i64 task = 0; task < R * G; task++) {
            if (failed) continue;
            i64 r = R - 1 - task / G, g = task % G, first = starts[r], T = starts[r + 1] - first;
            i64 Tp = (T + 15) / 16 * 16;
            pack_across(k + first * ks + g * D, ks, T, Tp, D, ka);
            pack_down(k + first * ks + g * D, ks, T, Tp, D, kd);
            pack_across(v + first * ks + g * D, ks, T, Tp, D, va);
            memset(sumk, 0, Tp * D * 4), memset(sumv, 0, Tp * D * 4);
            for (i64 a = g * share; a < (g + 1) * share; a++)
                for (i64 at = 0; at < T; at += BLOCK) {
                    i64 M = T - at < BLOCK ? T - at : BLOCK, seen = causal ? at + M : T;
                    i64 wide = (seen + 15) / 16 * 16, even = (M + 1) / 2 * 2;
                    const bf16 *qa = q + (first + at) * qs + a * D, *da = dout + (first + at) * qs + a * D;
                    product(M, wide, D / 2, (const uint32_t *)qa, qs / 2, 1, ka, Tp, s, wide, 0);
                    product(M, wide, D / 2, (const uint32_t *)da, qs / 2, 1, va, Tp, t, wide, 0);
                    for (i64 i = 0; i < even; i++) {
                        float *si = s + i * wide, *ti = t + i * wide;
                        if (i >= M) {
                            memset(si, 0, wide * 4), memset(ti, 0, wide * 4);
                            continue;
                        }
                        const bf16 *oi = o + (first + at + i) * qs + a * D;
                        __m512 sum = _mm512_setzero_ps();
                        for (i64 d = 0; d < D; d += 16)
                            sum = _mm512_fmadd_ps(load(oi + d, 0xFFFF), load(da + i * qs + d, 0xFFFF), sum);
                        __m512 delta = _mm512_set1_ps(_mm512_reduce_add_ps(sum)), by = _mm512_set1_ps(scale);
                        __m512 back = _mm512_set1_ps(lse[(first + at + i) * A + a]);
                        i64 end = causal ? at + i + 1 : T;
                        uint32_t stream = stream_of((uint32_t)seed, (first + at + i) * A + a);
                        for (i64 j = 0; j < wide; j += 16) {
                            __mmask16 m = j >= end ? 0 : tail(end - j);
                            __m512 e = _mm512_maskz_mov_ps(m, exp_ps(_mm512_fmsub_ps(_mm512_loadu_ps(si + j), by, back)));
                            __m512 dp = _mm512_loadu_ps(ti + j), used = e;
                            if (drop) {
                                __mmask16 stay = kept(stream, j, drop);
                                dp = _mm512_maskz_mul_ps(stay, dp, grow);
                                used = _mm512_maskz_mul_ps(stay, e, grow);
                            }
                            __m512 grad = _mm512_mul_ps(_mm512_mul_ps(e, by), _mm512_sub_ps(dp, delta));
                            _mm512_storeu_ps(si + j, used);
                            _mm512_storeu_ps(ti + j, grad);
                            store(ds + i * wide + j, 0xFFFF, grad);
                        }
                    }
                    product(M, D, wide / 2, (const uint32_t *)ds, wide / 2, 1, kd, D, out, D, 0);
                    for (i64 i = 0; i < M; i++)
                        for (i64 d = 0; d < D; d += 16)
                            store(dq + (first + at + i) * qs + a * D + d, 0xFFFF, _mm512_loadu_ps(out + i * D + d));
                    pack_down(qa, qs, M, even, D, qd);
                    pack_down(da, qs, M, even, D, od);
                    for (i64 i = 0; i < even; i += 2)
                        interleave(t + i * wide, t + (i + 1) * wide, wide, pairs + i / 2 * wide);
                    product(seen, D, even / 2, pairs, 1, wide, qd, D, sumk, D, 1);
                    for (i64 i = 0; i < even; i += 2)
                        interleave(s + i * wide, s + (i + 1) * wide, wide, pairs + i / 2 * wide);
                    product(seen, D, even / 2, pairs, 1, wide, od, D, sumv, D, 1);
                }
            for (i64 i = 0; i < T; i++)
                for (i64 d = 0; d < D; d += 16) {
                    i64 to = (first + i) * ks + g * D + d;
                    store(dk + to, 0xFFFF, _mm512_loadu_ps(sumk + i * D + d));
                    store(dv + to, 0xFFFF, _mm512_loadu_ps(sumv + i * D + d));
                }
        }
        free(ka), free(kd), free(va), free(qd), free(od), free(s), free(t);
        free(pairs), free(ds), free(sumk), free(sumv), free(out);
    }
    return failed;
}

/* ---- encoders of BERT's shape, all of whose weights learn ---- */

#define LINES 32 /* tokens whose sums are taken together, so that they do not depend on threads */

/* sum = x + dropout(a), which is kept; y = LayerNorm(sum). x may be 0. */
void dropout_add_norm(const bf16 *a, const bf16 *x, const bf16 *w, const bf16 *b, bf16 *sum, bf16 *y,
                      float *mean, float *rstd, i64 N, i64 H, float eps, float dropout, i64 seed, int threads) {
    uint32_t drop = threshold(dropout);
    __m512 grow = _mm512_set1_ps(1.0f / (1.0f - dropout));
#pragma omp parallel for num_threads(threads) schedule(static)
    for (i64 n = 0; n < N; n++) {
        bf16 *sn = sum + n * H;
        uint32_t stream = stream_of((uint32_t)seed, n);
        __m512 total = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
        for (i64 h = 0; h < H; h += 16) {
            __mmask16 m = tail(H - h);
            __m512 v = load(a + n * H + h, m);
            if (drop) v = _mm512_maskz_mul_ps(kept(stream, h, drop), v, grow);
            if (x) v = _mm512_add_ps(v, load(x + n * H + h, m));
            store(sn + h, m, v);
            total = _mm512_add_ps(total, load(sn + h, m));
        }
        float middle = _mm512_reduce_add_ps(total) / (float)H;
        __m512 centre = _mm512_set1_ps(middle);
        for (i64 h = 0; h < H; h += 16) {
            __mmask16 m = tail(H - h);
            __m512 v = _mm512_maskz_sub_ps(m, load(sn + h, m), centre);
            squares = _mm512_fmadd_ps(v, v, squares);
        }
        float r = 1.0f / sqrtf(_mm512_reduce_add_ps(squares) / (float)H + eps);
        mean[n] = middle, rstd[n] = r;
        __m512 scale = _mm512_set1_ps(r);
        for (i64 h = 0; h < H; h += 16) {
            __mmask16 m = tail(H - h);
            __m512 v = _mm512_mul_ps(_mm512_sub_ps(load(sn + h, m), centre), scale);
            store(y + n * H + h, m, _mm512_fmadd_ps(v, load(w + h, m), load(b + h, m)));
        }
    }
}

/* dx: gradient of the sum; da: of what was dropped out. partial_P3H: sums over LINES tokens each of the
 * gradients of w, of b and of da. da may be dx where dropout is 0. */
void dropout_add_norm_backward(const bf16 *dy, const bf16 *sum, const bf16 *w, const float *mean,
                               const float *rstd, bf16 *dx, bf16 *da, float *partial, i64 N, i64 H,
                               float dropout, i64 seed, int threads) {
    uint32_t drop = threshold(dropout);
    __m512 grow = _mm512_set1_ps(1.0f / (1.0f - dropout));
#pragma omp parallel for num_threads(threads) schedule(static)
    for (i64 block = 0; block < (N + LINES - 1) / LINES; block++) {
        float *dw = partial + block * 3 * H, *db = dw + H, *dbias = db + H;
        memset(dw, 0, 3 * H * sizeof(float));
        for (i64 n = block * LINES; n < N && n < (block + 1) * LINES; n++) {
            const bf16 *sn = sum + n * H, *dn = dy + n * H;
            uint32_t stream = stream_of((uint32_t)seed, n);
            __m512 centre = _mm512_set1_ps(mean[n]), scale = _mm512_set1_ps(rstd[n]);
            __m512 first = _mm512_setzero_ps(), second = _mm512_setzero_ps();
            for (i64 h = 0; h < H; h += 16) {
                __mmask16 m = tail(H - h);
                __m512 d = load(dn + h, m), g = _mm512_mul_ps(d, load(w + h, m));
                __m512 unit = _mm512_mul_ps(_mm512_sub_ps(load(sn + h, m), centre), scale);
                first = _mm512_add_ps(first, g);
                second = _mm512_fmadd_ps(g, unit, second);
                _mm512_mask_storeu_ps(dw + h, m, _mm512_fmadd_ps(d, unit, _mm512_maskz_loadu_ps(m, dw + h)));
                _mm512_mask_storeu_ps(db + h, m, _mm512_add_ps(d, _mm512_maskz_loadu_ps(m, db + h)));
            }
            __m512 one = _mm512_set1_ps(_mm512_reduce_add_ps(first) / (float)H);
            __m512 two = _mm512_set1_ps(_mm512_reduce_add_ps(second) / (float)H);
            for (i64 h = 0; h < H; h += 16) {
                __mmask16 m = tail(H - h);
                __m512 g = _mm512_mul_ps(load(dn + h, m), load(w + h, m));
                __m512 unit = _mm512_mul_ps(_mm512_sub_ps(load(sn + h, m), centre), scale);
                __m512 d = _mm512_mul_ps(_mm512_sub_ps(_mm512_sub_ps(g, one), _mm512_mul_ps(unit, two)), scale);
                store(dx + n * H + h, m, d);
                if (drop) {
                    d = _mm512_maskz_mul_ps(kept(stream, h, drop), d, grow);
                    store(da + n * H + h, m, d);
                }
                _mm512_mask_storeu_ps(dbias + h, m, _mm512_add_ps(d, _mm512_maskz_loadu_ps(m, dbias + h)));
            }
        }
    }
}

/* x = dropout(x) in place; with the same seed it is its own backward pass. */
void dropout(bf16 *x, i64 N, i64 H, float share, i64 seed, int threads) {
    uint32_t drop = threshold(share);
    __m512 grow = _mm512_set1_ps(1.0f / (1.0f - share));
#pragma omp parallel for num_threads(threads) schedule(static)
    for (i64 n = 0; n < N; n++) {
        uint32_t stream = stream_of((uint32_t)seed, n);
        for (i64 h = 0; h < H; h += 16) {
            __mmask16 m = tail(H - h);
            store(x + n * H + h, m, _mm512_maskz_mul_ps(kept(stream, h, drop), load(x + n * H + h, m), grow));
        }
    }
}

/* The normal distribution function; absolute error 1.5e-7 (Abramowitz and Stegun 7.1.26). */
INLINE __m512 normal_share(__m512 x, __m512 *density) {
    __m512 one = _mm512_set1_ps(1.0f), z = _mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.70710678f));
    __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(z, _mm512_set1_ps(0.3275911f), one));
    __m512 e = exp_ps(_mm512_mul_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(-0.5f)));
    __m512 p = _mm512_set1_ps(1.061405429f);
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-1.453152027f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.421413741f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.284496736f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.254829592f));
    __m512 tail_share = _mm512_mul_ps(_mm512_mul_ps(_mm512_mul_ps(p, t), e), _mm512_set1_ps(0.5f));
    *density = _mm512_mul_ps(e, _mm512_set1_ps(0.39894228f));
    __mmask16 below = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    return _mm512_mask_mov_ps(_mm512_sub_ps(one, tail_share), below, tail_share);
}

/* y = GELU(x), the exact one */
void gelu(const bf16 *x, bf16 *y, i64 count, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (i64 block = 0; block < (count + 1023) / 1024; block++)
        for (i64 i = block * 1024; i < count && i < (block + 1) * 1024; i += 16) {
            __mmask16 m = tail(count - i);
            __m512 v = load(x + i, m), density;
            store(y + i, m, _mm512_mul_ps(v, normal_share(v, &density)));
        }
}

/* Overwrites x with its gradient and dy with GELU(x); partial_PI: sums of the gradient over LINES tokens. */
void gelu_backward(bf16 *dy, bf16 *x, float *partial, i64 N, i64 I, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (i64 block = 0; block < (N + LINES - 1) / LINES; block++) {
        float *total = partial + block * I;
        memset(total, 0, I * sizeof(float));
        for (i64 n = block * LINES; n < N && n < (block + 1) * LINES; n++)
            for (i64 i = 0; i < I; i += 16) {
                __mmask16 m = tail(I - i);
                __m512 v = load(x + n * I + i, m), density, share = normal_share(v, &density);
                __m512 d = _mm512_mul_ps(load(dy + n * I + i, m), _mm512_fmadd_ps(v, density, share));
                store(x + n * I + i, m, d);
                store(dy + n * I + i, m, _mm512_mul_ps(v, share));
                _mm512_mask_storeu_ps(total + i, m, _mm512_add_ps(d, _mm512_maskz_loadu_ps(m, total + i)));
            }
    }
}

/* partial_PH: sums over LINES tokens each. */
void column_sums(const bf16 *x, float *partial, i64 N, i64 H, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (i64 block = 0; block < (N + LINES - 1) / LINES; block++)
        for (i64 h = 0; h < H; h += 16) {
            __mmask16 m = tail(H - h);
            __m512 total = _mm512_setzero_ps();
            for (i64 n = block * LINES; n < N && n < (block + 1) * LINES; n++)
                total = _mm512_add_ps(total, load(x + n * H + h, m));
            _mm512_mask_storeu_ps(partial + block * H + h, m, total);
        }
}

/* ---- the optimiser ---- */

/* partial: sums of squares over 4096 gradients each, one tensor's after the other's. */
void square_sums(i64 count, const bf16 **gradients, const i64 *sizes, double *partial, int threads) {
#pragma omp parallel num_threads(threads)
    for (i64 tensor = 0, at = 0; tensor < count; tensor++) {
        const bf16 *g = gradients[tensor];
        i64 size = sizes[tensor], blocks = (size + 4095) / 4096;
#pragma omp for schedule(static) nowait
        for (i64 block = 0; block < blocks; block++) {
            __m512 total = _mm512_setzero_ps();
            for (i64 i = block * 4096; i < size && i < (block + 1) * 4096; i += 16) {
                __m512 v = load(g + i, tail(size - i));
                total = _mm512_fmadd_ps(v, v, total);
            }
            partial[at + block] = _mm512_reduce_add_ps(total);
        }
        at += blocks;
    }
}

INLINE int all_zero(const void *p, i64 bytes) {
    const char *at = p;
    i64 i = 0;
    for (; i + 64 <= bytes; i += 64)
        if (_mm512_test_epi32_mask(_mm512_loadu_si512(at + i), _mm512_loadu_si512(at + i))) return 0;
    for (; i < bytes; i++)
        if (at[i]) return 0;
    return 1;
}

/* One AdamW update of fp32 weights p from bf16 gradients times scale; their bf16 copy goes to out.
 * Of each tensor: lines of `width` weights; shrink = 1 - rate x decay; size = rate / (1 - beta1^t);
 * root = sqrt(1 - beta2^t). where is 0, or says for each line which one of g is its gradient; -1: none
 * now; -2: none now and none before. A line that has no gradient and never had one is left as it is:
 * words that the data lacks. */
void adamw(i64 count, float **weights, float **first, float **second, const bf16 **gradients, bf16 **outs,
           const int32_t **places, const i64 *lines, const i64 *widths, const float *shrink, const float *size,
           const float *root, float scale, float beta1, float beta2, float eps, int threads) {
    __m512 b1 = _mm512_set1_ps(1.0f - beta1), b2 = _mm512_set1_ps(beta2), c2 = _mm512_set1_ps(1.0f - beta2);
    __m512 least = _mm512_set1_ps(eps), times = _mm512_set1_ps(scale);
#pragma omp parallel num_threads(threads)
    for (i64 tensor = 0; tensor < count; tensor++) {
        float *p = weights[tensor], *m1 = first[tensor], *m2 = second[tensor];
        const bf16 *g = gradients[tensor];
        bf16 *out = outs[tensor];
        const int32_t *where = places[tensor];
        i64 width = widths[tensor];
        __m512 step = _mm512_set1_ps(-size[tensor]), by = _mm512_set1_ps(1.0f / root[tensor]);
        __m512 keep = _mm512_set1_ps(shrink[tensor]);
        /* In turns of a few lines: common words stand together in a vocabulary. */
#pragma omp for schedule(static, 8) nowait
        for (i64 line = 0; line < lines[tensor]; line++) {
            i64 start = line * width;
            const bf16 *gl = g + start;
            if (where) {
                if (where[line] == -2) continue;
                gl = where[line] < 0 ? 0 : g + where[line] * width;
            } else if (all_zero(gl, 2 * width) && all_zero(m1 + start, 4 * width)) continue;
            for (i64 i = 0; i < width; i += 16) {
                __mmask16 m = tail(width - i);
                i64 to = start + i;
                __m512 gi = gl ? _mm512_mul_ps(load(gl + i, m), times) : _mm512_setzero_ps();
                __m512 a = _mm512_maskz_loadu_ps(m, m1 + to);
                a = _mm512_fmadd_ps(_mm512_sub_ps(gi, a), b1, a);
                __m512 b = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, m2 + to), b2);
                b = _mm512_fmadd_ps(_mm512_mul_ps(gi, gi), c2, b);
                __m512 below = _mm512_fmadd_ps(_mm512_sqrt_ps(b), by, least);
                __m512 pi = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, p + to), keep);
                pi = _mm512_fmadd_ps(_mm512_div_ps(a, below), step, pi);
                _mm512_mask_storeu_ps(m1 + to, m, a);
                _mm512_mask_storeu_ps(m2 + to, m, b);
                _mm512_mask_storeu_ps(p + to, m, pi);
                store(out + to, m, pi);
            }
        }
    }
}
