// Products of FP8 (e4m3 of OCP's 8-bit floating point 1.0): weights and activations with a scale for each of their rows, multiplied by
// cuBLASLt. Here: what goes in, and what follows.
#include "elementwise.cuh"
#include "weights.cuh"

constexpr int threads = 256;
// The largest e4m3.
constexpr float e4m3_most = 448.0f;

// The nearest e4m3, of two the one whose last bit is 0; the largest for what is larger. NaN stays NaN.
__device__ __forceinline__ unsigned char e4m3(float value) {
  const unsigned bits = __float_as_uint(value), sign = bits >> 24 & 0x80, size = bits & 0x7fffffff;
  if (size > 0x7f800000) return static_cast<unsigned char>(sign | 0x7f);
  // Below 2^-6 steps are 2^-9: added to 2^14, whose own steps those are, what is lower is rounded away.
  if (size < 0x3c800000) return static_cast<unsigned char>(sign | (__float_as_uint(__fadd_rn(__uint_as_float(size), 16384.0f)) & 0xff));
  const unsigned rounded = size + 0x7ffff + (size >> 20 & 1);
  const unsigned code = (rounded >> 20) - (120 << 3);
  return static_cast<unsigned char>(sign | (code < 0x7e ? code : 0x7e));
}

// Codes of a packed weight as rows of `cols` bytes, and its scales: what cuBLASLt takes. A block has 32 rows of 32 columns; bytes that
// no column has stay as they are. `out`: `[.., cols]`; `scales`: `[rows]`.
extern "C" __global__ void __launch_bounds__(32)
unpack_e4m3(const unsigned char *lines, Packed weight, int cols, unsigned char *out, float *scales) {
  const int lane = threadIdx.x, row = blockIdx.x * 32 + lane, index = blockIdx.y;
  if (row >= weight.rows) return;
  const unsigned char *pair = lines + size_t(blockIdx.x) * weight.pair;
  const unsigned char *codes = pair + (weight.scale == 2 ? 128 : 64) + size_t(index) * 1024;
  for (int i = 0; i < block_cols && index * block_cols + i < weight.cols; i++)
    out[size_t(row) * cols + index * block_cols + i] = codes[i * 32 + lane];
  if (index == 0)
    scales[row] = weight.scale == 0 ? half_at(pair + lane * 2) : weight.scale == 1 ? bfloat_at(pair + lane * 2) : float_at(pair + lane * 4);
}
EXPORT(unpack_e4m3)

// Activations as e4m3, the largest of a row becoming the largest e4m3: a block for each row. `x`: `[rows, width]`; `out`:
// `[rows, cols]`, 0 behind a row's end; `scales`: `[rows]`.
extern "C" __global__ void __launch_bounds__(threads) take_e4m3(const float *x, int width, int cols, unsigned char *out, float *scales) {
  SHARED(float, parts, threads / 32);
  const float *row = x + size_t(blockIdx.x) * width;
  float most = 0;
  for (int i = threadIdx.x; i < width; i += threads) most = fmaxf(most, fabsf(row[i]));
  most = warp_max(most);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = most;
  __syncthreads();
  for (int i = 0; i < threads / 32; i++) most = fmaxf(most, parts[i]);
  const float scale = __fdiv_rn(most, e4m3_most);
  for (int i = threadIdx.x; i < cols; i += threads)
    out[size_t(blockIdx.x) * cols + i] = i < width && scale > 0 ? e4m3(__fdiv_rn(row[i], scale)) : i < width ? e4m3(row[i]) : 0;
  if (threadIdx.x == 0) scales[blockIdx.x] = scale;
}
EXPORT(take_e4m3)
