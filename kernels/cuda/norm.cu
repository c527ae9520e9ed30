// Norms of rows, one block for each row: sums run over the threads' own columns, then the lanes, then the warps, an order that
// depends on the width alone.
#include "elementwise.cuh"

constexpr int threads = 256, warps = threads / 32;

// A block's row of `x`, `width` wide, to `out`: `x / sqrt(mean(x^2) + eps) * weight`, added to what `out` holds if `add`.
__device__ __forceinline__ void rms(const float *x, const float *weight, float eps, int width, int add, float *out) {
  SHARED(float, parts, warps);
  const size_t row = size_t(blockIdx.x) * width;
  float sum = 0;
  for (int i = threadIdx.x; i < width; i += threads) sum = fmaf(x[row + i], x[row + i], sum);
  sum = block_sum(sum, parts, warps);
  const float scale = 1.0f / sqrtf(sum / float(width) + eps);
  for (int i = threadIdx.x; i < width; i += threads) {
    const float value = x[row + i] * scale * weight[i];
    out[row + i] = add ? out[row + i] + value : value;
  }
}

// A block's row of `x` to `(x - mean) / sqrt(var + eps) * weight + bias`, in place; the variance is that of the distances from the mean,
// so that a large mean does not spoil it.
__device__ __forceinline__ void layer(float *x, const float *weight, const float *bias, float eps, int width) {
  SHARED(float, parts, warps);
  float *row = x + size_t(blockIdx.x) * width;
  float sum = 0;
  for (int i = threadIdx.x; i < width; i += threads) sum += row[i];
  const float mean = block_sum(sum, parts, warps) / float(width);
  sum = 0;
  for (int i = threadIdx.x; i < width; i += threads) sum = fmaf(row[i] - mean, row[i] - mean, sum);
  const float scale = 1.0f / sqrtf(block_sum(sum, parts, warps) / float(width) + eps);
  for (int i = threadIdx.x; i < width; i += threads) row[i] = fmaf((row[i] - mean) * scale, weight[i], bias[i]);
}

// As `finish` with `add`: a product's sums to a block's row of `x`. A thread adds the columns whose norm it computes.
__device__ __forceinline__ void residual(const Sums &sums, int width, float *x) {
  for (int i = threadIdx.x; i < width; i += threads) {
    float &value = x[size_t(blockIdx.x) * width + i];
    value = sums.at(blockIdx.x, i) + value;
  }
}

// `x`, `out`: `[rows, width]`.
extern "C" __global__ void __launch_bounds__(threads)
rms_norm(const float *x, const float *weight, float eps, int width, int add, float *out) {
  rms(x, weight, eps, width, add, out);
}
EXPORT(rms_norm)

// What is added to the rows `x` before their norm, and the norm.
extern "C" __global__ void __launch_bounds__(threads)
residual_rms_norm(Sums sums, float *x, const float *weight, float eps, int width, float *out) {
  residual(sums, width, x);
  rms(x, weight, eps, width, 0, out);
}
EXPORT(residual_rms_norm)

// The RMS norm of each query head with `query` and each key head with `key`, in place: one warp for each head.
// `qkv`: `[rows, width]`, each row beginning with `q_heads` and then `kv_heads` heads of `dim` values.
extern "C" __global__ void __launch_bounds__(threads)
rms_norm_heads(float *qkv, const float *query, const float *key, float eps, int q_heads, int kv_heads, int dim, int width) {
  const int lane = threadIdx.x % 32;
  for (int head = threadIdx.x / 32; head < q_heads + kv_heads; head += warps) {
    float *x = qkv + size_t(blockIdx.x) * width + size_t(head) * dim;
    const float *weight = head < q_heads ? query : key;
    float sum = 0;
    for (int i = lane; i < dim; i += 32) sum = fmaf(x[i], x[i], sum);
    sum = warp_sum(sum);
    const float scale = 1.0f / sqrtf(sum / float(dim) + eps);
    for (int i = lane; i < dim; i += 32) x[i] = x[i] * scale * weight[i];
  }
}
EXPORT(rms_norm_heads)

// `x`: `[rows, width]`.
extern "C" __global__ void __launch_bounds__(threads)
layer_norm(float *x, const float *weight, const float *bias, float eps, int width) {
  layer(x, weight, bias, eps, width);
}
EXPORT(layer_norm)

// What is added to the rows `x` before their norm, and the norm.
extern "C" __global__ void __launch_bounds__(threads)
residual_layer_norm(Sums sums, float *x, const float *weight, const float *bias, float eps, int width) {
  residual(sums, width, x);
  layer(x, weight, bias, eps, width);
}
EXPORT(residual_layer_norm)
