#include "collective_kernels.h"

#include <string.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define X86 1
#include <immintrin.h>
#endif

#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define INDEPENDENT _Pragma("GCC ivdep")
#else
#define INDEPENDENT
#endif

/* Elements that are reduced at a time: what lies between two loops stays in the first-level cache. */
#define BLOCK 1024u

typedef struct {
    void (*combine[DTYPES][OP_MAX + 1])(void *into, const void *first, const void *second, size_t count);
    void (*divide[DTYPES])(void *array, size_t count, uint32_t by);
    void (*widen[DTYPES])(float *to, const uint16_t *from, size_t count);
    void (*narrow[DTYPES])(uint16_t *to, const float *from, size_t count);
} kernels;

/* ---- float16 and float32, one at a time ---- */

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* IEEE 754 binary16: 1 bit of sign, 5 of exponent (bias 15), 10 of fraction. */
static inline float widened(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = half & 0x7fff;
    if (magnitude >= 0x7c00) { /* infinite, or a NaN, which is made quiet as the processor's own instruction does */
        const uint32_t quiet = magnitude > 0x7c00 ? 0x400000 : 0;
        return float_of(sign | 0x7f800000 | quiet | (magnitude & 0x3ff) << 13);
    }
    /* As if it were the fraction of a float of exponent -112, then scaled up: exact, subnormal numbers included. */
    return float_of(sign | bits_of(float_of(magnitude << 13) * 0x1p112f));
}

static inline uint16_t narrowed(float value) {
    const uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffff, sign = bits >> 16 & 0x8000;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x47800000) return (uint16_t)(sign | 0x7c00); /* 65536 and more */
    if (magnitude < 0x38800000) /* below 2^-14, subnormal: the addition rounds to a multiple of 2^-24 */
        return (uint16_t)(sign | (bits_of(float_of(magnitude) + 0.5f) - 0x3f000000));
    return (uint16_t)(sign | (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
}

/* ---- the sets ---- */

#define SET(name) name##_portable
#define TARGET
#define WIDTH 1
#include "collective_loops.h"

#ifdef X86
#define SET(name) name##_avx2
#define TARGET __attribute__((target("avx2,f16c")))
#define WIDTH 8
#include "collective_loops.h"

#define SET(name) name##_avx512
#ifdef __clang__
#define TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,f16c")))
#else
#define TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,f16c,prefer-vector-width=512")))
#endif
#define WIDTH 16
#include "collective_loops.h"
#endif

static const kernels *const sets[KERNEL_SETS] = {
    [KERNELS_PORTABLE] = &kernels_portable,
#ifdef X86
    [KERNELS_AVX2] = &kernels_avx2,
    [KERNELS_AVX512] = &kernels_avx512,
#endif
};

kernel_set kernel_best(void) {
#ifdef X86
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw"))
        return KERNELS_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) return KERNELS_AVX2;
#endif
    return KERNELS_PORTABLE;
}

size_t kernel_itemsize(kernel_dtype dtype) {
    static const size_t sizes[DTYPES] = {2, 2, 4, 8, 4, 8};
    return sizes[dtype];
}

/* ---- a block ---- */

static void reduce_halves(const kernels *k, kernel_dtype dtype, kernel_op op, void *into, const char *const *sources,
                          uint32_t number, size_t offset, size_t count) {
    float total[BLOCK], next[BLOCK];
    const kernel_op step = op == OP_AVG ? OP_SUM : op;
    k->widen[dtype](total, (const uint16_t *)(sources[0] + offset), count);
    for (uint32_t i = 1; i < number; i++) {
        k->widen[dtype](next, (const uint16_t *)(sources[i] + offset), count);
        k->combine[DTYPE_FLOAT32][step](total, total, next, count);
    }
    if (op == OP_AVG) k->divide[DTYPE_FLOAT32](total, count, number);
    k->narrow[dtype](into, total, count);
}

static void reduce_whole(const kernels *k, kernel_dtype dtype, kernel_op op, void *into, const char *const *sources,
                         uint32_t number, size_t offset, size_t count) {
    /* Not in `into`: it may be a source whose turn has not come. */
    _Alignas(64) char total[BLOCK * sizeof(double)];
    const kernel_op step = op == OP_AVG ? OP_SUM : op;
    const void *so_far = sources[0] + offset;
    for (uint32_t i = 1; i < number; i++) {
        void *to = i == number - 1 ? into : (void *)total;
        k->combine[dtype][step](to, so_far, sources[i] + offset, count);
        so_far = to;
    }
    if (op == OP_AVG) k->divide[dtype](into, count, number);
}

void kernel_reduce_with(kernel_set set, kernel_dtype dtype, kernel_op op, void *into, const void *const *sources,
                        uint32_t number, size_t count) {
    const kernels *k = sets[set];
    const size_t item = kernel_itemsize(dtype);
    const char *bytes[KERNEL_SOURCES];
    if (number == 1) { /* itself, whatever the operation; also a NaN keeps its bits */
        if (into != sources[0]) memcpy(into, sources[0], count * item);
        return;
    }
    for (uint32_t i = 0; i < number; i++) bytes[i] = sources[i];
    for (size_t done = 0; done < count; done += BLOCK) {
        const size_t now = count - done < BLOCK ? count - done : BLOCK;
        void *to = (char *)into + done * item;
        if (dtype <= DTYPE_BFLOAT16) reduce_halves(k, dtype, op, to, bytes, number, done * item, now);
        else reduce_whole(k, dtype, op, to, bytes, number, done * item, now);
    }
}

void kernel_reduce(kernel_dtype dtype, kernel_op op, void *into, const void *const *sources, uint32_t number, size_t count) {
    kernel_reduce_with(kernel_best(), dtype, op, into, sources, number, count);
}
