/* Fused MaxSim of int8 codes: products, maxima and sums of rows never leave the processor.

   A passage's tokens are coded four together: s >= 0 is the largest magnitude of the four over 127, a
   token d is s c + e with whole c, and r is the longest |e| of the four. The order of a passage's tokens
   means nothing to a maximum, so they are sorted by magnitude first and the four need nearly the same s.
   A query row is a h + f with whole h of 8 or 16 bits. `fused_bounds` gives for each passage

       sum over rows of  a max over tokens of ( s (h . c) + |h| r )

   which `cpu_fused.py` turns into an upper bound, and proves. h . c is exact in int32.

   The lanes of a vector are rows of queries, which are laid out for it once (`fused_rows`); tokens lie
   as they are, row after row, and four of their dims at a time are broadcast. So a passage's maxima stay
   in their lanes, and passages of any length need no padding.

   `fused_scores` gives the canonical score itself, from float16 tokens, where no order of summation in
   float64 rounds anything (`exact/reference.py` says where that is). All products are summed in float32
   first; a row's maximum in float64 is then among the tokens that come within twice what float32 can be
   off by.

   `maxsim_kind.h` is the program, included once for each kind of processor. Nothing here knows Python:
   it is called by ctypes. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

/* Tokens that share a scale, and are multiplied together; vectors of rows that are. */
#define TOKENS 4
#define VECTORS 6

/* A float32 rounding as `exact/bounds.py` grants it. */
#define GRANTED (8.0f / 16777216.0f)

typedef struct {
    int64_t dim, padded;       /* numbers in a vector, and in its codes: a multiple of 16 */
    const int64_t *offsets;    /* passage p owns tokens offsets[p] to offsets[p + 1] */
    const int64_t *groups;     /* and groups of four groups[p] to groups[p + 1] */
    int8_t *codes;             /* (tokens x padded) */
    int32_t *starts;           /* (tokens) -128 times the sum of a token's codes */
    float *scales, *residuals; /* (groups) s and r */
} Codes;

typedef struct {
    int64_t rows, bits;
    const void *laid_out;
    const float *scales, *lengths; /* (rows, up to a multiple of 16) a and |h| */
    int64_t queries;
    const int64_t *offsets; /* query q owns rows offsets[q] to offsets[q + 1] */
} Rows;

/* A query whose rows are float16 numbers, as float32. */
typedef struct {
    int64_t dim, padded;  /* a multiple of 16 */
    int64_t rows, stride; /* a multiple of 16 */
    const float *by_row;  /* (rows x padded), zeros behind each row */
    const float *by_dim;  /* (dim x stride), anything behind the rows */
    const float *off;     /* (stride) twice what a row's products may be off by, per unit of a token */
} Query;

typedef struct {
    float magnitude;
    int place;
} Placed;

static int by_magnitude(const void *a, const void *b)
{
    const Placed *x = a, *y = b;
    if (x->magnitude != y->magnitude) return x->magnitude < y->magnitude ? 1 : -1;
    return x->place < y->place ? -1 : 1;
}

INLINE int32_t four_bytes(const void *p)
{
    int32_t x;
    memcpy(&x, p, 4);
    return x;
}

/* How vectors of rows are cut into blocks of at most VECTORS, about equal: the end of the next one. */
static int64_t block_end(int64_t first, int64_t vectors, int64_t most)
{
    int64_t blocks = (vectors - first + most - 1) / most;
    return first + (vectors - first + blocks - 1) / blocks;
}

typedef struct {
    const char *name;
    int64_t bits; /* of query codes that cost least: 8, or 16 where they cost the same */
    int (*works)(void);
    int64_t (*rows_bytes)(int64_t rows, int64_t padded, int64_t bits);
    void (*rows)(const int16_t *h, int64_t rows, int64_t dim, int64_t padded, int64_t bits, void *out);
    int (*code)(const uint16_t *tokens, const Codes *codes, int64_t first, int64_t last,
                float *residual, float *longest, float *shortest);
    int (*scores)(const uint16_t *tokens, const Query *query, const int64_t *starts,
                  const int64_t *lengths, const float *longest, int64_t count, double *out);
    int (*bounds)(const Codes *codes, const Rows *rows, const int64_t *numbers, int64_t count,
                  float *out, int64_t stride);
} Kind;

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

/* Eight float16 numbers to float32. */
#define WIDEN(to, from) \
    _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from))))

#define KIND avx512_vnni
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")))
#define LANES 16
#define VI __m512i
#define VF __m512
#define SET(x) _mm512_set1_epi32(x)
#define LOAD(p) _mm512_loadu_si512(p)
/* By name: compilers move what the intrinsic adds to from register to register. */
#define DOT(sum, row, token) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(row), "v"(token))
#define OFFSET 128
#define MAXI _mm512_max_epi32
#define JOIN(high, low) _mm512_add_epi32(_mm512_slli_epi32(high, 8), low)
#define FLOATS _mm512_cvtepi32_ps
#define SETF _mm512_set1_ps
#define LOADF _mm512_loadu_ps
#define STOREF _mm512_storeu_ps
#define MULF _mm512_mul_ps
#define FMAF _mm512_fmadd_ps
#define MAXF _mm512_max_ps
#define VD __m512d
#define LOADD(p) _mm512_cvtps_pd(_mm256_loadu_ps(p))
#define STORED _mm512_storeu_pd
#define FMAD _mm512_fmadd_pd
#define REACHES(a, b) _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ)
#define SUBF _mm512_sub_ps
#include "maxsim_kind.h"

#define KIND avx_vnni
#define TARGET __attribute__((target("avx2,fma,f16c")))
#define LANES 8
#define VI __m256i
#define VF __m256
#define SET(x) _mm256_set1_epi32(x)
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define DOT(sum, row, token) __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(row), "x"(token))
#define OFFSET 128
#define MOST_VECTORS 2
#define MAXI _mm256_max_epi32
#define JOIN(high, low) _mm256_add_epi32(_mm256_slli_epi32(high, 8), low)
#define FLOATS _mm256_cvtepi32_ps
#define SETF _mm256_set1_ps
#define LOADF _mm256_loadu_ps
#define STOREF _mm256_storeu_ps
#define MULF _mm256_mul_ps
#define FMAF _mm256_fmadd_ps
#define MAXF _mm256_max_ps
#define VD __m256d
#define LOADD(p) _mm256_cvtps_pd(_mm_loadu_ps(p))
#define STORED _mm256_storeu_pd
#define FMAD _mm256_fmadd_pd
#define REACHES(a, b) _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ))
#define SUBF _mm256_sub_ps
#include "maxsim_kind.h"

/* Without VNNI products are of 16 bits, so that a query of 16 bits costs nothing more. */
#define KIND avx2
#define TARGET __attribute__((target("avx2,fma,f16c")))
#define LANES 8
#define WORDS
#define VI __m256i
#define VF __m256
#define SET(x) _mm256_set1_epi32(x)
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
/* By name: compilers put the additions in another order, which needs more registers than there are. */
#define DOT(sum, row, token)                              \
    do {                                                  \
        __m256i pairs;                                    \
        __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" \
                : "+x"(sum), "=&x"(pairs)                 \
                : "x"(row), "x"(token));                  \
    } while (0)
#define MOST_VECTORS 2
#define MAXI _mm256_max_epi32
#define FLOATS _mm256_cvtepi32_ps
#define SETF _mm256_set1_ps
#define LOADF _mm256_loadu_ps
#define STOREF _mm256_storeu_ps
#define MULF _mm256_mul_ps
#define FMAF _mm256_fmadd_ps
#define MAXF _mm256_max_ps
#define VD __m256d
#define LOADD(p) _mm256_cvtps_pd(_mm_loadu_ps(p))
#define STORED _mm256_storeu_pd
#define FMAD _mm256_fmadd_pd
#define REACHES(a, b) _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ))
#define SUBF _mm256_sub_ps
#include "maxsim_kind.h"

/* Whether the processor has AVX2, FMA and float16 conversions, and the system saves these registers. */
static int has_avx2(unsigned saved)
{
    unsigned a, b = 0, c = 0, d, low, high;
    const unsigned needed = bit_FMA | bit_OSXSAVE | bit_AVX | bit_F16C;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & needed) != needed) return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & saved) == saved && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2);
}

static int works_avx2(void) { return has_avx2(0x06); }

static int works_avx_vnni(void)
{
    unsigned a = 0, b, c, d;
    return has_avx2(0x06) && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4));
}

static int works_avx512_vnni(void)
{
    unsigned a, b = 0, c = 0, d;
    const unsigned needed = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    return has_avx2(0xe6) && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & needed) == needed
        && (c & bit_AVX512VNNI);
}

static const Kind kinds[] = {
    {"avx512-vnni", 8, works_avx512_vnni, avx512_vnni_rows_bytes, avx512_vnni_rows, avx512_vnni_code,
     avx512_vnni_scores, avx512_vnni_bounds},
    {"avx-vnni", 8, works_avx_vnni, avx_vnni_rows_bytes, avx_vnni_rows, avx_vnni_code, avx_vnni_scores, avx_vnni_bounds},
    {"avx2", 16, works_avx2, avx2_rows_bytes, avx2_rows, avx2_code, avx2_scores, avx2_bounds},
};

#elif defined(__aarch64__)

#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif

#define WIDEN(to, from) \
    (vst1q_f32(to, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)))), \
     vst1q_f32((to) + 4, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((from) + 4)))))

static inline unsigned neon_mask(uint32x4_t which)
{
    const uint32_t bits[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(which, vld1q_u32(bits)));
}

#define KIND neon_dot
#if defined(__APPLE__)
#define TARGET
#else
#define TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
#define LANES 4
#define VI int32x4_t
#define VF float32x4_t
#define SET(x) vdupq_n_s32(x)
#define LOAD(p) vreinterpretq_s32_s8(vld1q_s8((const int8_t *)(p)))
#define DOT(sum, row, token) \
    (sum = vdotq_s32(sum, vreinterpretq_s8_s32(row), vreinterpretq_s8_s32(token)))
#define OFFSET 0
#define MAXI vmaxq_s32
#define JOIN(high, low) vaddq_s32(vshlq_n_s32(high, 8), low)
#define FLOATS vcvtq_f32_s32
#define SETF vdupq_n_f32
#define LOADF vld1q_f32
#define STOREF vst1q_f32
#define MULF vmulq_f32
#define FMAF(a, b, c) vfmaq_f32(c, a, b)
#define MAXF vmaxq_f32
#define VD float64x2_t
#define LOADD(p) vcvt_f64_f32(vld1_f32(p))
#define STORED vst1q_f64
#define FMAD(a, b, c) vfmaq_f64(c, a, b)
#define REACHES(a, b) neon_mask(vcgeq_f32(a, b))
#define SUBF vsubq_f32
#include "maxsim_kind.h"

static int works_dot(void)
{
#if defined(__APPLE__)
    return 1;
#elif defined(__linux__)
    return (getauxval(AT_HWCAP) >> 20) & 1; /* HWCAP_ASIMDDP */
#else
    return 0;
#endif
}

static const Kind kinds[] = {
    {"neon-dotprod", 8, works_dot, neon_dot_rows_bytes, neon_dot_rows, neon_dot_code, neon_dot_scores, neon_dot_bounds},
};

#else
#error "there is no kernel for this processor: the package does without"
#endif

EXPORT int64_t fused_kinds(void) { return (int64_t)(sizeof kinds / sizeof *kinds); }
EXPORT const char *fused_name(int64_t kind) { return kinds[kind].name; }
EXPORT int64_t fused_bits(int64_t kind) { return kinds[kind].bits; }
EXPORT int64_t fused_works(int64_t kind) { return kinds[kind].works(); }

EXPORT int64_t fused_rows_bytes(int64_t kind, int64_t rows, int64_t padded, int64_t bits)
{
    return kinds[kind].rows_bytes(rows, padded, bits);
}

EXPORT void fused_rows(int64_t kind, const int16_t *h, int64_t rows, int64_t dim, int64_t padded,
                       int64_t bits, void *out)
{
    kinds[kind].rows(h, rows, dim, padded, bits, out);
}

EXPORT int64_t fused_code(int64_t kind, const uint16_t *tokens, const Codes *codes, int64_t first,
                          int64_t last, float *residual, float *longest, float *shortest)
{
    return kinds[kind].code(tokens, codes, first, last, residual, longest, shortest);
}

EXPORT int64_t fused_scores(int64_t kind, const uint16_t *tokens, const Query *query,
                            const int64_t *starts, const int64_t *lengths, const float *longest,
                            int64_t count, double *out)
{
    return kinds[kind].scores(tokens, query, starts, lengths, longest, count, out);
}

EXPORT int64_t fused_bounds(int64_t kind, const Codes *codes, const Rows *rows, const int64_t *numbers,
                            int64_t count, float *out, int64_t stride)
{
    return kinds[kind].bounds(codes, rows, numbers, count, out, stride);
}

/* Asked for where a library is an extension module; this one is never imported. */
EXPORT void *PyInit__maxsim(void) { return NULL; }
