// Functions of one value, as the operations' docs define them.
#pragma once
#include "compat.cuh"

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }
__device__ __forceinline__ float gelu_erf(float x) { return 0.5f * x * erfcf(-x * 0.70710678118654752f); }
__device__ __forceinline__ float gelu_tanh(float x) {
  // tanh(y) = 1 - 2 / (1 + exp(2 y)): x/2 (1 + tanh y) = x - x / (1 + exp(2 y)).
  const float y = 0.79788456080286536f * (x + 0.044715f * x * x * x);
  return x / (1.0f + expf(-2.0f * y));
}

// What a product leaves to be finished, in rows of `step`: each value is first multiplied with the scales of its row and of its output,
// where there are any, and then its output's bias is added.
struct Sums {
  const float *values, *of_rows, *of_outputs, *bias;
  long long step;

  __device__ __forceinline__ float at(size_t row, size_t output) const {
    float value = values[row * step + output];
    if (of_rows) value = __fmul_rn(__fmul_rn(value, of_rows[row]), of_outputs[output]);
    return bias ? value + bias[output] : value;
  }
};

// What follows a product; the numbers are those of `ops::linear`.
enum Then { store, add, then_gelu_erf, then_gelu_tanh, then_relu, then_tanh, silu_mul, gelu_erf_mul, gelu_tanh_mul };

__device__ __forceinline__ float apply(int then, float x) {
  switch (then) {
    case then_gelu_erf:
    case gelu_erf_mul: return gelu_erf(x);
    case then_gelu_tanh:
    case gelu_tanh_mul: return gelu_tanh(x);
    // A NaN stays one.
    case then_relu: return x < 0.0f ? 0.0f : x;
    case then_tanh: return tanhf(x);
    case silu_mul: return silu(x);
    default: return x;
  }
}
