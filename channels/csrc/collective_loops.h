/* The loops of collective_kernels.c, included once for each instruction set: SET(name) names, TARGET compiles.
 * They are written for the compiler to vectorise; only the conversions of float16 need to be spelled out. */

/* `into` may be a or b themselves: no iteration reads what another writes. */
#define LOOP_OVER(TYPE, NAME, EXPRESSION)                                                                              \
    TARGET static void SET(NAME)(void *into, const void *first, const void *second, size_t count) {                    \
        TYPE *to = into;                                                                                               \
        const TYPE *one = first, *two = second;                                                                        \
        INDEPENDENT                                                                                                    \
        for (size_t i = 0; i < count; i++) {                                                                           \
            const TYPE a = one[i], b = two[i];                                                                         \
            to[i] = (EXPRESSION);                                                                                      \
        }                                                                                                              \
    }

/* The comparisons with itself propagate NaN; | and not ||, which would be a branch. */
#define LOOPS_OF_FLOAT(TYPE, SUFFIX)                                                                                   \
    LOOP_OVER(TYPE, sum_##SUFFIX, a + b)                                                                               \
    LOOP_OVER(TYPE, product_##SUFFIX, a *b)                                                                            \
    LOOP_OVER(TYPE, min_##SUFFIX, (a < b) | (a != a) ? a : b)                                                          \
    LOOP_OVER(TYPE, max_##SUFFIX, (a > b) | (a != a) ? a : b)                                                          \
    TARGET static void SET(divide_##SUFFIX)(void *array, size_t count, uint32_t by) {                                  \
        TYPE *to = array;                                                                                              \
        const TYPE divisor = (TYPE)by;                                                                                 \
        for (size_t i = 0; i < count; i++) to[i] /= divisor;                                                           \
    }

/* Unsigned, because signed integers must not overflow in C. */
#define LOOPS_OF_INT(TYPE, UNSIGNED, SUFFIX)                                                                           \
    LOOP_OVER(UNSIGNED, sum_##SUFFIX, a + b)                                                                           \
    LOOP_OVER(UNSIGNED, product_##SUFFIX, a *b)                                                                        \
    LOOP_OVER(TYPE, min_##SUFFIX, a < b ? a : b)                                                                       \
    LOOP_OVER(TYPE, max_##SUFFIX, a > b ? a : b)                                                                       \
    TARGET static void SET(divide_##SUFFIX)(void *array, size_t count, uint32_t by) {                                  \
        TYPE *to = array;                                                                                              \
        const TYPE divisor = (TYPE)by;                                                                                 \
        for (size_t i = 0; i < count; i++) to[i] /= divisor;                                                           \
    }

LOOPS_OF_FLOAT(float, float32)
LOOPS_OF_FLOAT(double, float64)
LOOPS_OF_INT(int32_t, uint32_t, int32)
LOOPS_OF_INT(int64_t, uint64_t, int64)

TARGET static void SET(widen_float16)(float *to, const uint16_t *from, size_t count) {
    size_t i = 0;
#if WIDTH == 16
    for (; i + 16 <= count; i += 16)
        _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(from + i))));
#elif WIDTH == 8
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
#endif
    for (; i < count; i++) to[i] = widened(from[i]);
}

TARGET static void SET(narrow_float16)(uint16_t *to, const float *from, size_t count) {
    size_t i = 0;
#if WIDTH == 16
    for (; i + 16 <= count; i += 16)
        _mm256_storeu_si256((__m256i *)(to + i), _mm512_cvtps_ph(_mm512_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
#elif WIDTH == 8
    for (; i + 8 <= count; i += 8)
        _mm_storeu_si128((__m128i *)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < count; i++) to[i] = narrowed(from[i]);
}

TARGET static void SET(widen_bfloat16)(float *to, const uint16_t *from, size_t count) {
    for (size_t i = 0; i < count; i++) to[i] = float_of((uint32_t)from[i] << 16);
}

/* To the nearest even; a NaN is the one that torch makes. */
TARGET static void SET(narrow_bfloat16)(uint16_t *to, const float *from, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const uint32_t bits = bits_of(from[i]), rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        to[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
    }
}

static const kernels SET(kernels) = {
    .combine = {[DTYPE_FLOAT32] = {SET(sum_float32), SET(product_float32), SET(min_float32), SET(max_float32)},
                [DTYPE_FLOAT64] = {SET(sum_float64), SET(product_float64), SET(min_float64), SET(max_float64)},
                [DTYPE_INT32] = {SET(sum_int32), SET(product_int32), SET(min_int32), SET(max_int32)},
                [DTYPE_INT64] = {SET(sum_int64), SET(product_int64), SET(min_int64), SET(max_int64)}},
    .divide = {[DTYPE_FLOAT32] = SET(divide_float32),
               [DTYPE_FLOAT64] = SET(divide_float64),
               [DTYPE_INT32] = SET(divide_int32),
               [DTYPE_INT64] = SET(divide_int64)},
    .widen = {[DTYPE_FLOAT16] = SET(widen_float16), [DTYPE_BFLOAT16] = SET(widen_bfloat16)},
    .narrow = {[DTYPE_FLOAT16] = SET(narrow_float16), [DTYPE_BFLOAT16] = SET(narrow_bfloat16)},
};

#undef LOOP_OVER
#undef LOOPS_OF_FLOAT
#undef LOOPS_OF_INT
#undef SET
#undef TARGET
#undef WIDTH
