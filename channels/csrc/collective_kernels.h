/* Reductions of arrays, element by element, for the collectives. No Python here.
 *
 * The order of the operands is the order of the sources, so the result depends on nothing else: not on who computes it,
 * how the array is cut, or on the run. float16 and bfloat16 are computed in float32 and rounded once, to the nearest
 * even. Minimum and maximum of a NaN and anything are NaN. Integers wrap around; their average is the wrapped sum divided
 * with truncation towards zero, as NCCL's.
 *
 * There is one set of loops for each instruction set, and the best that this processor has is used.
 * Rejected: target_clones. Its resolver runs before a sanitizer is set up, and crashes. */
#ifndef DAGC_COLLECTIVE_KERNELS_H
#define DAGC_COLLECTIVE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

typedef enum { DTYPE_FLOAT16, DTYPE_BFLOAT16, DTYPE_FLOAT32, DTYPE_FLOAT64, DTYPE_INT32, DTYPE_INT64, DTYPES } kernel_dtype;
typedef enum { OP_SUM, OP_PRODUCT, OP_MIN, OP_MAX, OP_AVG, OPS } kernel_op;
typedef enum { KERNELS_PORTABLE, KERNELS_AVX2, KERNELS_AVX512, KERNEL_SETS } kernel_set;

#define KERNEL_SOURCES 128u

size_t kernel_itemsize(kernel_dtype dtype);

/* into[i] = sources[0][i] op sources[1][i] op ... for `count` elements. Each array is aligned to its elements. `into` may
 * be one of the sources, but must not overlap one otherwise. */
void kernel_reduce(kernel_dtype dtype, kernel_op op, void *into, const void *const *sources, uint32_t number, size_t count);
/* The same with the loops of one instruction set, not above kernel_best(): the results are the same but for the bits of
 * a NaN. */
void kernel_reduce_with(kernel_set set, kernel_dtype dtype, kernel_op op, void *into, const void *const *sources,
                        uint32_t number, size_t count);
/* The best set that this processor has. */
kernel_set kernel_best(void);

#endif
