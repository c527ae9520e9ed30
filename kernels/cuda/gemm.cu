// The kernels of `gemm.cuh`, for each way in which a weight can lie. Parameters: the weight (or, with `parts`, `One` for each of several
// of one shape), what the launcher says of it, which rows go through which (or null), the rows, the order of the columns or null, how
// many rows, whether products are added, where they go.
#include "gemm.cuh"

#define GEMM(name, body)                                                                                                            \
  extern "C" __global__ void __launch_bounds__(gemm_threads) gemm_##name(const unsigned char *lines, Packed weight, const Part *parts, \
                                                                         const float *x, const unsigned *order, int rows, int add,     \
                                                                         float *out) {                                                 \
    const Work work = work_of(lines, order, parts, rows, tile_rows);                                                                   \
    if (work.rows <= 0) return;                                                                                                        \
    x += size_t(work.first) * weight.cols;                                                                                             \
    out += size_t(work.first) * weight.rows;                                                                                           \
    body(global(work.weight.lines), weight, x, work.weight.order, work.rows, add, out);                                                \
  }                                                                                                                                    \
  EXPORT(gemm_##name)

#define COMMA ,
#define PACKED(name, Reader)                                                             \
  GEMM(name##_bf16, gemm<Pairs<Reader COMMA __nv_bfloat16> COMMA __nv_bfloat16>)         \
  GEMM(name##_f16, gemm<Pairs<Reader COMMA __half> COMMA __half>)

GEMM(rows_bf16, gemm<Plain<__nv_bfloat16> COMMA __nv_bfloat16>)
GEMM(rows_f16, gemm<Plain<__half> COMMA __half>)
GEMM(rows_f32_plain, gemm_plain<float>)
GEMM(rows_bf16_plain, gemm_plain<__nv_bfloat16>)
GEMM(rows_f16_plain, gemm_plain<__half>)
PACKED(q8_0, Q8_0)
PACKED(q4_0, Q4_0)
PACKED(q4_1, Q4_1)
PACKED(q5_0, Q5_0)
PACKED(q5_1, Q5_1)
PACKED(q2_k, Q2K)
PACKED(q3_k, Q3K)
PACKED(q4_k, Q4K)
PACKED(q5_k, Q5K)
PACKED(q6_k, Q6K)
PACKED(q8_k, Q8K)
PACKED(iq4_nl, Iq4Nl)
PACKED(mxfp4, Mxfp4)
PACKED(int8, RowInt8)
PACKED(grouped_int4, Grouped<int4_code>)
PACKED(grouped_int8, Grouped<int8_code>)
PACKED(grouped_fp8, Grouped<fp8_code>)
