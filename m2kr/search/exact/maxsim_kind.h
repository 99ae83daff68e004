/* The program of `maxsim.c` for one kind of processor, by what that defines before it includes this. */

#define JOINED2(a, b) a##_##b
#define JOINED(a, b) JOINED2(a, b)
#define NAME(x) JOINED(KIND, x)
#ifndef MOST_VECTORS
#define MOST_VECTORS VECTORS
#endif

#ifdef WORDS
/* Rows and tokens are 16 bits a dim, two dims to a lane; a row of 16 bits is one plane. */
typedef int16_t NAME(token);
enum { NAME(a_lane) = 2 };
#define PLANES(bits) ((void)(bits), 1)
#define JOIN(high, low) (high)
#else
/* 8 bits a dim, four dims to a lane; a row of 16 bits is two planes, its high and its low byte. */
typedef int8_t NAME(token);
enum { NAME(a_lane) = 4 };
#define PLANES(bits) ((bits) == 16 ? 2 : 1)
#endif

static int64_t NAME(vectors)(int64_t rows) { return (rows + LANES - 1) / LANES; }

static int64_t NAME(rows_bytes)(int64_t rows, int64_t padded, int64_t bits)
{
    return NAME(vectors)(rows) * PLANES(bits) * LANES * (padded / NAME(a_lane)) * 4;
}

/* Blocks of vectors as `bounds` takes them; in a block, a lane's dims of all its vectors together. */
static void NAME(rows)(const int16_t *h, int64_t rows, int64_t dim, int64_t padded, int64_t bits,
                       void *out)
{
    const int planes = PLANES(bits);
    const int64_t vectors = NAME(vectors)(rows), most = MOST_VECTORS / planes;
    unsigned char *to = out;
    for (int64_t first = 0, end; first < vectors; first = end) {
        end = block_end(first, vectors, most);
        for (int64_t place = 0; place < padded; place += NAME(a_lane))
            for (int64_t v = first; v < end; v++)
                for (int plane = 0; plane < planes; plane++)
                    for (int64_t row = v * LANES; row < (v + 1) * LANES; row++)
                        for (int64_t k = place; k < place + NAME(a_lane); k++) {
                            int value = row < rows && k < dim ? h[row * dim + k] : 0;
#ifdef WORDS
                            const int16_t word = (int16_t)value;
                            memcpy(to, &word, 2);
                            to += 2;
#else
                            /* As vpdpbusd takes it, from 0 to 255; or from -128 to 127. */
                            if (planes == 2) value = plane ? (value & 255) - 128 : value >> 8;
                            if (OFFSET) value += 128;
                            *to++ = (unsigned char)value;
#endif
                        }
    }
}

/* One block of `count` vectors against up to four tokens of one scale. */
INLINE TARGET void NAME(tile)(const int count, const int planes, const unsigned char *rows,
                              int64_t steps, const NAME(token) *const *tokens, const int32_t *starts,
                              float scale, float residual, const float *lengths, float *best)
{
    VI sums[VECTORS][TOKENS];
    UNROLL for (int t = 0; t < TOKENS; t++) {
#ifdef WORDS
        (void)starts;
        const VI high = SET(0), low = high;
#else
        /* An offset of 128 on one side adds 128 times the sum of the other, which is taken off here. */
        const VI high = SET(OFFSET ? starts[t] : 0);
        const VI low = SET(OFFSET ? 0 : -starts[t]);
#endif
        UNROLL for (int v = 0; v < count; v++) sums[v][t] = planes == 2 && v % 2 ? low : high;
    }
    for (int64_t step = 0; step < steps; step += 4)
        UNROLL for (int one = 0; one < 4; one++) {
            VI token[TOKENS];
            UNROLL for (int t = 0; t < TOKENS; t++)
                token[t] = SET(four_bytes(tokens[t] + (step + one) * NAME(a_lane)));
            UNROLL for (int v = 0; v < count; v++) {
                const VI row = LOAD(rows + ((step + one) * count + v) * LANES * 4);
                UNROLL for (int t = 0; t < TOKENS; t++) DOT(sums[v][t], row, token[t]);
            }
        }
    UNROLL for (int v = 0; v < count; v += planes) {
        VI most[TOKENS];
        UNROLL for (int t = 0; t < TOKENS; t++)
            most[t] = planes == 2 ? JOIN(sums[v][t], sums[v + planes - 1][t]) : sums[v][t];
        const VI highest = MAXI(MAXI(most[0], most[1]), MAXI(most[2], most[3]));
        float *at = best + v / planes * LANES;
        const VF spare = MULF(LOADF(lengths + v / planes * LANES), SETF(residual));
        STOREF(at, MAXF(LOADF(at), FMAF(FLOATS(highest), SETF(scale), spare)));
    }
}

INLINE TARGET void NAME(passage)(const int count, const int planes, const Codes *codes, int64_t passage,
                                 const NAME(token) *tokens, const unsigned char *rows,
                                 const float *lengths, float *best, const int8_t *next)
{
    const int64_t first = codes->offsets[passage], n = codes->offsets[passage + 1] - first;
    const int64_t group = codes->groups[passage];
    const int64_t steps = codes->padded / NAME(a_lane);
    for (int64_t token = 0; token < n; token += TOKENS) {
        const NAME(token) *four[TOKENS];
        int32_t starts[TOKENS];
        for (int t = 0; t < TOKENS; t++) {
            /* The last one again changes no maximum. */
            const int64_t place = token + t < n ? token + t : n - 1;
            four[t] = tokens + place * codes->padded;
            /* One query alone does little with a passage: the next one must be on its way. */
            for (int64_t k = 0; next && k < codes->padded; k += 64)
                __builtin_prefetch((const void *)((uintptr_t)next + (uintptr_t)(place * codes->padded + k)));
            starts[t] = codes->starts[first + place];
        }
        NAME(tile)(count, planes, rows, steps, four, starts, codes->scales[group + token / TOKENS],
                   codes->residuals[group + token / TOKENS], lengths, best);
    }
}

#define CASE(count, planes)                                                                     \
    case count * 4 + planes:                                                                    \
        NAME(passage)(count, planes, codes, passage, tokens, block, rows->lengths + place, best + place,     \
                      from ? NULL : next);                                                      \
        break;

/* out[q * stride + i] of passage numbers[i], or i. */
static TARGET int NAME(bounds)(const Codes *codes, const Rows *rows, const int64_t *numbers,
                               int64_t count, float *out, int64_t stride)
{
    const int planes = PLANES(rows->bits);
    const int64_t vectors = NAME(vectors)(rows->rows), most = MOST_VECTORS / planes;
    const int64_t bytes = LANES * 4 * (codes->padded / NAME(a_lane)) * planes;
    float *best = malloc((size_t)(vectors * LANES + 1) * sizeof *best);
    if (!best) return 1;
#ifdef WORDS
    int16_t *wide = NULL;
    int64_t room = 0;
#endif
    for (int64_t i = 0; i < count; i++) {
        const int64_t passage = numbers ? numbers[i] : i;
        const int64_t first = codes->offsets[passage], n = codes->offsets[passage + 1] - first;
        const int8_t *narrow = codes->codes + first * codes->padded;
#ifdef WORDS
        const int64_t size = n * codes->padded;
        if (size > room) {
            free(wide);
            room = size;
            wide = malloc((size_t)room * sizeof *wide);
            if (!wide) {
                free(best);
                return 1;
            }
        }
        for (int64_t k = 0; k < size; k++) wide[k] = narrow[k];
        const int16_t *tokens = wide;
#else
        const int8_t *tokens = narrow;
        (void)n;
#endif
        const int8_t *next = NULL;
        if (i + 1 < count)
            next = codes->codes + codes->offsets[numbers ? numbers[i + 1] : i + 1] * codes->padded;
        for (int64_t r = 0; r < vectors * LANES; r++) best[r] = -INFINITY;
        for (int64_t from = 0, end; from < vectors; from = end) {
            end = block_end(from, vectors, most);
            const unsigned char *block = (const unsigned char *)rows->laid_out + from * bytes;
            const int64_t place = from * LANES;
            switch ((end - from) * planes * 4 + planes) {
                CASE(1, 1)
                CASE(2, 1)
#if MOST_VECTORS > 2
                CASE(3, 1)
                CASE(4, 1)
                CASE(5, 1)
                CASE(6, 1)
#endif
#ifndef WORDS
                CASE(2, 2)
#if MOST_VECTORS > 2
                CASE(4, 2)
                CASE(6, 2)
#endif
#endif
            }
        }
        for (int64_t q = 0; q < rows->queries; q++) {
            double sums[4] = {0, 0, 0, 0};
            int64_t r = rows->offsets[q];
            const int64_t end = rows->offsets[q + 1];
            for (; r + 4 <= end; r += 4)
                for (int k = 0; k < 4; k++) sums[k] += (double)best[r + k] * rows->scales[r + k];
            for (; r < end; r++) sums[0] += (double)best[r] * rows->scales[r];
            out[q * stride + i] = (float)(sums[0] + sums[1] + sums[2] + sums[3]);
        }
    }
#ifdef WORDS
    free(wide);
#endif
    free(best);
    return 0;
}

/* Codes passages first to last - 1, whose tokens begin at `tokens`. */
static TARGET int NAME(code)(const uint16_t *tokens, const Codes *codes, int64_t first, int64_t last,
                             float *residual, float *longest, float *shortest)
{
    enum { PART = 8 };
    const int64_t dim = codes->dim, padded = codes->padded;
    const float more = 1.0f + GRANTED * (float)(dim + 8);
    int64_t most = 0;
    for (int64_t p = first; p < last; p++) {
        const int64_t n = codes->offsets[p + 1] - codes->offsets[p];
        if (n > most) most = n;
    }
    float highs[LANES], parts[LANES];
    float *values = calloc((size_t)((most + 1) * padded), sizeof *values), *row = values;
    Placed *order = malloc((size_t)(most + 1) * sizeof *order);
    if (!values || !order) {
        free(values);
        free(order);
        return 1;
    }
    row += most * padded;
    for (int64_t p = first; p < last; p++) {
        const int64_t start = codes->offsets[p], n = codes->offsets[p + 1] - start;
        const uint16_t *from = tokens + (start - codes->offsets[first]) * dim;
        float largest_norm = 0, least_norm = INFINITY, most_lost = 0;
        int broken = 0;
        for (int64_t j = 0; j < n; j++) {
            float *to = values + j * padded;
            for (int64_t k = 0; k < dim; k += PART) {
                uint16_t halves[PART] = {0};
                memcpy(halves, from + j * dim + k, (size_t)(dim - k < PART ? dim - k : PART) * 2);
                WIDEN(to + k, halves);
            }
            VF high = SETF(0), squares = high;
            for (int64_t k = 0; k < padded; k += LANES) {
                const VF x = LOADF(to + k);
                high = MAXF(high, MAXF(x, SUBF(SETF(0), x)));
                squares = FMAF(x, x, squares);
            }
            STOREF(highs, high);
            STOREF(parts, squares);
            float magnitude = 0, square = 0;
            for (int i = 0; i < LANES; i++) {
                magnitude = highs[i] > magnitude ? highs[i] : magnitude;
                square += parts[i];
            }
            const float norm = sqrtf(square) * more;
            if (!(norm <= FLT_MAX)) broken = 1; /* NaN, too */
            if (norm > largest_norm) largest_norm = norm;
            if (norm < least_norm) least_norm = norm;
            order[j].magnitude = magnitude;
            order[j].place = (int)j;
        }
        longest[p] = largest_norm;
        shortest[p] = n ? least_norm : 0;
        residual[p] = 0;
        /* The caller refuses it. */
        if (broken) {
            longest[p] = INFINITY;
            continue;
        }
        qsort(order, (size_t)n, sizeof *order, by_magnitude);
        for (int64_t j = 0; j < n; j += TOKENS) {
            const float s = order[j].magnitude > 0 ? order[j].magnitude / 127.0f : 1.0f;
            const float steps = 1.0f / s;
            float lost = 0;
            for (int64_t i = j; i < n && i < j + TOKENS; i++) {
                const float *x = values + order[i].place * padded;
                int8_t *to = codes->codes + (start + i) * padded;
                VF squares = SETF(0), sums = squares;
                for (int64_t k = 0; k < padded; k += LANES) {
                    /* Adding 1.5 * 2^23 leaves no place for a fraction: rounds to the nearest, and the
                       whole number is in the last bits. */
                    const VF shifted = FMAF(LOADF(x + k), SETF(steps), SETF(12582912.0f));
                    const VF whole = SUBF(shifted, SETF(12582912.0f));
                    const VF e = FMAF(whole, SETF(-s), LOADF(x + k));
                    squares = FMAF(e, e, squares);
                    sums = FMAF(whole, SETF(1), sums);
                    STOREF(row + k, shifted);
                }
                for (int64_t k = 0; k < padded; k++) {
                    uint32_t bits;
                    memcpy(&bits, row + k, 4);
                    to[k] = (int8_t)(uint8_t)bits;
                }
                STOREF(highs, sums);
                STOREF(parts, squares);
                float square = 0, sum = 0;
                for (int l = 0; l < LANES; l++) {
                    square += parts[l];
                    sum += highs[l];
                }
                codes->starts[start + i] = -128 * (int32_t)sum;
                const float e = sqrtf(square) * more;
                lost = e > lost ? e : lost;
            }
            codes->scales[codes->groups[p] + j / TOKENS] = s;
            codes->residuals[codes->groups[p] + j / TOKENS] = lost;
            most_lost = lost > most_lost ? lost : most_lost;
        }
        residual[p] = most_lost;
    }
    free(values);
    free(order);
    return 0;
}

/* All products of `count` vectors of rows with four tokens, and their maxima. */
INLINE TARGET void NAME(tile_f)(const int count, const float *rows, int64_t stride, int64_t dim,
                                const float *const *tokens, float *const *products, float *best)
{
    VF sums[VECTORS][TOKENS];
    UNROLL for (int v = 0; v < count; v++)
        UNROLL for (int t = 0; t < TOKENS; t++) sums[v][t] = SETF(0);
    for (int64_t k = 0; k < dim; k++) {
        VF token[TOKENS];
        UNROLL for (int t = 0; t < TOKENS; t++) token[t] = SETF(tokens[t][k]);
        UNROLL for (int v = 0; v < count; v++) {
            const VF row = LOADF(rows + k * stride + v * LANES);
            UNROLL for (int t = 0; t < TOKENS; t++) sums[v][t] = FMAF(row, token[t], sums[v][t]);
        }
    }
    UNROLL for (int v = 0; v < count; v++) {
        float *at = best + v * LANES;
        const VF highest = MAXF(MAXF(sums[v][0], sums[v][1]), MAXF(sums[v][2], sums[v][3]));
        STOREF(at, MAXF(LOADF(at), highest));
        UNROLL for (int t = 0; t < TOKENS; t++) STOREF(products[t] + v * LANES, sums[v][t]);
    }
}

INLINE TARGET void NAME(passage_f)(const int count, const Query *query, int64_t place,
                                   const float *tokens, int64_t n, float *products, float *best)
{
    for (int64_t token = 0; token < n; token += TOKENS) {
        const float *four[TOKENS];
        float *to[TOKENS];
        for (int t = 0; t < TOKENS; t++) {
            const int64_t one = token + t < n ? token + t : n - 1;
            four[t] = tokens + one * query->padded;
            to[t] = products + one * query->stride + place;
        }
        NAME(tile_f)(count, query->by_dim + place, query->stride, query->dim, four, to, best + place);
    }
}

/* Exact in every order, or it isn't called. */
INLINE TARGET double NAME(product)(const float *a, const float *b, int64_t padded)
{
    double lanes[LANES / 2], sum = 0;
    static const float zeros[LANES] = {0};
    VD sums = LOADD(zeros);
    for (int64_t k = 0; k < padded; k += LANES / 2) sums = FMAD(LOADD(a + k), LOADD(b + k), sums);
    STORED(lanes, sums);
    for (int i = 0; i < LANES / 2; i++) sum += lanes[i];
    return sum;
}

#undef CASE
#define CASE(count) \
    case count: NAME(passage_f)(count, query, place, wide, n, products, best); break;

/* Passage i has lengths[i] tokens from starts[i] on, the longest one as long as longest[i]. */
static TARGET int NAME(scores)(const uint16_t *tokens, const Query *query, const int64_t *starts,
                               const int64_t *lengths, const float *longest, int64_t count, double *out)
{
    enum { PART = 8 };
    const int64_t dim = query->dim, padded = query->padded, stride = query->stride;
    int64_t room = 0;
    for (int64_t i = 0; i < count; i++)
        if (lengths[i] > room) room = lengths[i];
    float *wide = calloc((size_t)(room * padded + 1), sizeof *wide);
    float *products = malloc((size_t)(room * stride + 1) * sizeof *products);
    float *best = malloc((size_t)(stride + 1) * sizeof *best);
    double *exact = malloc((size_t)(stride + 1) * sizeof *exact);
    const int failed = !wide || !products || !best || !exact;
    for (int64_t i = 0; i < count && !failed; i++) {
        const int64_t n = lengths[i], vectors = stride / LANES;
        for (int64_t j = 0; j < n; j++)
            for (int64_t k = 0; k < dim; k += PART) {
                uint16_t halves[PART] = {0};
                memcpy(halves, tokens + (starts[i] + j) * dim + k,
                       (size_t)(dim - k < PART ? dim - k : PART) * 2);
                WIDEN(wide + j * padded + k, halves);
            }
        for (int64_t r = 0; r < stride; r++) {
            best[r] = -INFINITY;
            exact[r] = -INFINITY;
        }
        for (int64_t from = 0, end; from < vectors; from = end) {
            const int64_t place = from * LANES;
            end = block_end(from, vectors, MOST_VECTORS);
            switch (end - from) {
                CASE(1)
                CASE(2)
#if MOST_VECTORS > 2
                CASE(3)
                CASE(4)
                CASE(5)
                CASE(6)
#endif
            }
        }
        for (int64_t place = 0; place < stride; place += LANES) {
            const VF spare = MULF(LOADF(query->off + place), SETF(longest[i]));
            const VF least = SUBF(LOADF(best + place), spare);
            for (int64_t j = 0; j < n; j++) {
                unsigned near = REACHES(LOADF(products + j * stride + place), least);
                for (; near; near &= near - 1) {
                    const int64_t r = place + __builtin_ctz(near);
                    if (r >= query->rows) break;
                    const double value =
                        NAME(product)(query->by_row + r * padded, wide + j * padded, padded);
                    if (value > exact[r]) exact[r] = value;
                }
            }
        }
        double sum = 0; /* first to last, as the canonical scorer adds them */
        for (int64_t r = 0; r < query->rows; r++) sum += exact[r];
        out[i] = sum;
    }
    free(wide);
    free(products);
    free(best);
    free(exact);
    return failed;
}

#undef LOADD
#undef STORED
#undef FMAD
#undef REACHES
#undef SUBF
#undef VD
#undef JOINED
#undef JOINED2
#undef NAME
#undef PLANES
#undef CASE
#undef KIND
#undef TARGET
#undef LANES
#undef WORDS
#undef VI
#undef VF
#undef SET
#undef LOAD
#undef DOT
#undef OFFSET
#undef MOST_VECTORS
#undef MAXI
#undef JOIN
#undef FLOATS
#undef SETF
#undef LOADF
#undef STOREF
#undef MULF
#undef FMAF
#undef MAXF
