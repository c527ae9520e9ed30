// Products with packed weights of few rows, their unpacking for products of many, and rows looked up in them.
#include "weights.cuh"

constexpr int gemv_warps = 8;
// Rows of activations that one pass over the weight serves.
constexpr int gemv_rows = 8;

// `out = x * weight^T`, `gemv_rows` rows a block at most: a block has 32 outputs, one a lane; its warps take the blocks of columns in turn
// and are summed in their order, so that a row's sum depends on the columns alone. `x`: `[rows, cols]`; `out`: `[rows, n]`.
template <class Reader, int R>
__device__ __forceinline__ void gemv(const unsigned char *lines, const Packed &weight, const float *x, int rows, float *out) {
  SHARED(float, parts, gemv_warps * 32);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned char *pair = lines + size_t(blockIdx.x) * weight.pair;
  // Whether rows begin at multiples of sixteen bytes.
  const bool fours = weight.cols % 4 == 0;
  float sums[R];
  UNROLL
  for (int r = 0; r < R; r++) sums[r] = 0;
  for (int index = warp; index * block_cols < weight.cols; index += gemv_warps) {
    float values[block_cols];
    Reader::read(pair, weight, index, lane, values);
    const float *from = x + size_t(index) * block_cols;
    const int count = min(block_cols, weight.cols - index * block_cols);
    UNROLL
    for (int r = 0; r < R; r++) {
      if (r >= rows) break;
      const float *row = from + size_t(r) * weight.cols;
      if (fours && count == block_cols) {
        UNROLL
        for (int i = 0; i < block_cols; i += 4) {
          const float4 four = *reinterpret_cast<const float4 *>(row + i);
          sums[r] = fmaf(values[i], four.x, sums[r]);
          sums[r] = fmaf(values[i + 1], four.y, sums[r]);
          sums[r] = fmaf(values[i + 2], four.z, sums[r]);
          sums[r] = fmaf(values[i + 3], four.w, sums[r]);
        }
        continue;
      }
      UNROLL
      for (int i = 0; i < block_cols; i++)
        if (i < count) sums[r] = fmaf(values[i], row[i], sums[r]);
    }
  }
  const int output = blockIdx.x * 32 + lane;
  UNROLL
  for (int r = 0; r < R; r++) {
    if (r >= rows) break;
    parts[warp * 32 + lane] = sums[r];
    __syncthreads();
    if (warp == 0 && output < weight.rows) {
      float sum = 0;
      for (int w = 0; w < gemv_warps; w++) sum += parts[w * 32 + lane];
      out[size_t(r) * weight.rows + output] = sum;
    }
    __syncthreads();
  }
}

// Values of the weight's rows from pair `first` on, row-major, as f32, f16 or bf16 (`kind` 0, 1, 2). A block unpacks 32 rows of 32
// columns; they change places in shared memory, so that both ends run along memory. `out`: `[.., cols]`.
template <class Reader>
__device__ __forceinline__ void unpack(const unsigned char *lines, const Packed &weight, int first, int kind, void *out) {
  SHARED(float, values, 32 * 33);
  const int lane = threadIdx.x, pair = first + blockIdx.x, index = blockIdx.y;
  float mine[block_cols];
  Reader::read(lines + size_t(pair) * weight.pair, weight, index, lane, mine);
  UNROLL
  for (int i = 0; i < block_cols; i++) values[lane * 33 + i] = mine[i];
  __syncwarp();
  const int col = index * block_cols + lane;
  for (int row = 0; row < 32 && pair * 32 + row < weight.rows; row++) {
    const size_t at = size_t(blockIdx.x * 32 + row) * weight.cols + col;
    if (col >= weight.cols) continue;
    const float value = values[row * 33 + lane];
    if (kind == 0) static_cast<float *>(out)[at] = value;
    else if (kind == 1) static_cast<__half *>(out)[at] = __float2half(value);
    else static_cast<__nv_bfloat16 *>(out)[at] = __float2bfloat16(value);
  }
}

// Row `i` of `out` is row `ids[i]` of the weight; a lane reads a block of columns. `order`: as in `take_f32`, or null.
template <class Reader>
__device__ __forceinline__ void look_up(const unsigned char *lines, const Packed &weight, const unsigned *ids, const unsigned *order,
                                        float *out) {
  const int row = int(ids[blockIdx.x]);
  float values[block_cols];
  for (int index = threadIdx.x; index * block_cols < weight.cols; index += blockDim.x) {
    Reader::read(lines + size_t(row / 32) * weight.pair, weight, index, row % 32, values);
    for (int i = 0; i < block_cols && index * block_cols + i < weight.cols; i++) {
      const int col = index * block_cols + i;
      out[size_t(blockIdx.x) * weight.cols + (order ? order[col] : col)] = values[i];
    }
  }
}

// The same in rows of plain values.
template <class T> __device__ __forceinline__ void look_up_plain(const T *rows, int cols, const unsigned *ids, const unsigned *order, float *out) {
  const T *from = rows + size_t(ids[blockIdx.x]) * cols;
  for (int i = threadIdx.x; i < cols; i += blockDim.x) out[size_t(blockIdx.x) * cols + (order ? order[i] : i)] = to_float(from[i]);
}

#define GEMV(name, Reader, R)                                                                                          \
  extern "C" __global__ void __launch_bounds__(gemv_warps * 32, 1) gemv_##name##_r##R(                                   \
      const unsigned char *lines, Packed weight, const Part *parts, const float *x, int rows, float *out) {              \
    const Work work = work_of(lines, nullptr, parts, rows, gemv_rows);                                                   \
    if (work.rows <= 0) return;                                                                                          \
    gemv<Reader, R>(global(work.weight.lines), weight, x + size_t(work.first) * weight.cols, work.rows,                  \
                    out + size_t(work.first) * weight.rows);                                                             \
  }                                                                                                                      \
  EXPORT(gemv_##name##_r##R)

#define UNPACK(name, Reader)                                                                                                   \
  extern "C" __global__ void __launch_bounds__(32) unpack_##name(const unsigned char *lines, Packed weight, int first, int kind, \
                                                                 void *out) {                                                    \
    unpack<Reader>(lines, weight, first, kind, out);                                                                             \
  }                                                                                                                              \
  EXPORT(unpack_##name)

#define PACKED(name, Reader)                                                                                                      \
  GEMV(name, Reader, 1)                                                                                                           \
  GEMV(name, Reader, 8)                                                                                                           \
  UNPACK(name, Reader)                                                                                                            \
  extern "C" __global__ void __launch_bounds__(128) look_up_##name(const unsigned char *lines, Packed weight, const unsigned *ids, \
                                                                   const unsigned *order, float *out) {                            \
    look_up<Reader>(lines, weight, ids, order, out);                                                                               \
  }                                                                                                                                \
  EXPORT(look_up_##name)

#define PLAIN(name, T, Reader)                                                                                                \
  UNPACK(name, Reader)                                                                                                        \
  extern "C" __global__ void __launch_bounds__(128) look_up_##name(const T *rows, int cols, const unsigned *ids,               \
                                                                   const unsigned *order, float *out) {                        \
    look_up_plain(rows, cols, ids, order, out);                                                                                \
  }                                                                                                                            \
  EXPORT(look_up_##name)

PLAIN(f32, float, PlainF32)
PLAIN(f16, __half, PlainF16)
PLAIN(bf16, __nv_bfloat16, PlainBf16)
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
