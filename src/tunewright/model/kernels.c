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

/* Rows start at starts_R1[r]; q_NAD with A heads, k and v_NGD with G; A / G query heads share one of k.
 * o_NAD; lse_NA is the log of the sum of exponentials, for the backward pass. */
void attention(const bf16 *q, const bf16 *k, const bf16 *v, const i64 *starts, i64 R, i64 A, i64 G, i64 D,
               float scale, int causal, bf16 *o, float *lse, int threads) {
    i64 longest = 0, share = A / G, qs = A * D, ks = G * D;
    for (i64 r = 0; r < R; r++) if (starts[r + 1] - starts[r] > longest) longest = starts[r + 1] - starts[r];
    i64 most = (longest + 31) / 32 * 32;
#pragma omp parallel num_threads(threads)
    {
        uint32_t *kp = aligned_alloc(64, most * D * 2), *vp = aligned_alloc(64, most * D * 2);
        float *s = aligned_alloc(64, BLOCK * most * 4), *out = aligned_alloc(64, BLOCK * D * 4);
        bf16 *p = aligned_alloc(64, BLOCK * most * 2);
#pragma omp for schedule(dynamic)
        for (i64 task = 0; task < R * G; task++) {
            i64 r = R - 1 - task / G, g = task % G, first = starts[r], T = starts[r + 1] - first;
            i64 Tp = (T + 31) / 32 * 32;
            pack_across(k + first * ks + g * D, ks, T, Tp, D, kp);
            pack_down(v + first * ks + g * D, ks, T, Tp, D, vp);
            for (i64 a = g * share; a < (g + 1) * share; a++)
                for (i64 at = 0; at < T; at += BLOCK) {
                    i64 M = T - at < BLOCK ? T - at : BLOCK, seen = causal ? at + M : T;
                    i64 wide = (seen + 31) / 32 * 32;
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
                        __m512 part = _mm512_set1_ps(1.0f / total);
                        for (i64 j = 0; j < wide; j += 16)
                            store(p + i * wide + j, 0xFFFF, _mm512_mul_ps(_mm512_loadu_ps(si + j), part));
                    }
                    product(M, D, wide / 2, (const uint32_t *)p, wide / 2, 1, vp, D, out, D, 0);
                    for (i64 i = 0; i < M; i++)
                        for (i64 d = 0; d < D; d += 16)
                            store(o + (first + at + i) * qs + a * D + d, 0xFFFF, _mm512_loadu_ps(out + i * D + d));
                }
        }
        free(kp), free(vp), free(s), free(out), free(p);
    }
}

/* Gradients of attention. dq, dk, dv have the shapes of q, k, v. */
void attention_backward(const bf16 *dout, const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *o,
                        const float *lse, const i64 *starts, i64 R, i64 A, i64 G, i64 D, float scale,
                        int causal, bf16 *dq, bf16 *dk, bf16 *dv, int threads) {
    i64 longest = 0, share = A / G, qs = A * D, ks = G * D;
    for (i64 r = 0; r < R; r++) if (starts[r + 1] - starts[r] > longest) longest = starts[r + 1] - starts[r];
    i64 most = (longest + 31) / 32 * 32;
#pragma omp parallel num_threads(threads)
    {
        uint32_t *ka = aligned_alloc(64, most * D * 2), *kd = aligned_alloc(64, most * D * 2);
        uint32_t *va = aligned_alloc(64, most * D * 2);
        uint32_t *qd = aligned_alloc(64, BLOCK * D * 2), *od = aligned_alloc(64, BLOCK * D * 2);
        float *s = aligned_alloc(64, BLOCK * most * 4), *t = aligned_alloc(64, BLOCK * most * 4);
        uint32_t *pairs = aligned_alloc(64, BLOCK / 2 * most * 4);
        bf16 *ds = aligned_alloc(64, BLOCK * most * 2);
        float *sumk = aligned_alloc(64, most * D * 4), *sumv = aligned_alloc(64, most * D * 4);
        float *out = aligned_alloc(64, BLOCK * D * 4);
#pragma omp for schedule(dynamic)
        for (i64 task = 0; task < R * G; task++) {
            i64 r = R - 1 - task / G, g = task % G, first = starts[r], T = starts[r + 1] - first;
            i64 Tp = (T + 31) / 32 * 32;
            pack_across(k + first * ks + g * D, ks, T, Tp, D, ka);
            pack_down(k + first * ks + g * D, ks, T, Tp, D, kd);
            pack_across(v + first * ks + g * D, ks, T, Tp, D, va);
            memset(sumk, 0, Tp * D * 4), memset(sumv, 0, Tp * D * 4);
            for (i64 a = g * share; a < (g + 1) * share; a++)
                for (i64 at = 0; at < T; at += BLOCK) {
                    i64 M = T - at < BLOCK ? T - at : BLOCK, seen = causal ? at + M : T;
                    i64 wide = (seen + 31) / 32 * 32, even = (M + 1) / 2 * 2;
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
                        for (i64 j = 0; j < wide; j += 16) {
                            __mmask16 m = j >= end ? 0 : tail(end - j);
                            __m512 e = _mm512_maskz_mov_ps(m, exp_ps(_mm512_fmsub_ps(_mm512_loadu_ps(si + j), by, back)));
                            __m512 grad = _mm512_mul_ps(_mm512_mul_ps(e, by), _mm512_sub_ps(_mm512_loadu_ps(ti + j), delta));
                            _mm512_storeu_ps(si + j, e);
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
}
