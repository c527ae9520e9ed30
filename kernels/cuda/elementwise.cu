// What follows a product, and other operations on values by themselves: one thread for each output, a loop over the grid.
#include "elementwise.cuh"

constexpr int threads = 256;

#define EACH(i, count) for (size_t i = size_t(blockIdx.x) * threads + threadIdx.x; i < (count); i += size_t(gridDim.x) * threads)

// `out = then(sums)`, or `then(gate) * up` of the halves of a row. A row has `n` sums; `out`: `[rows, n]`, gated half as wide, and may be
// the sums' memory where they are as wide.
extern "C" __global__ void __launch_bounds__(threads) finish(Sums sums, int then, int n, size_t rows, float *out) {
  const bool gated = then >= silu_mul;
  const size_t width = gated ? n / 2 : n;
  EACH(i, rows * width) {
    const size_t row = i / width, col = i % width;
    float value = sums.at(row, col);
    if (then == add) value += out[i];
    value = apply(then, value);
    if (gated) value *= sums.at(row, width + col);
    out[i] = value;
  }
}
EXPORT(finish)

// Activations as a product reads them: `out[r][c] = x[r][order ? order[c] : c]`, rounded to nearest even.
template <class T> __device__ __forceinline__ void take(const float *x, const unsigned *order, int cols, size_t count, T *out) {
  EACH(i, count) out[i] = from_float<T>(order ? x[i / cols * cols + order[i % cols]] : x[i]);
}
extern "C" __global__ void __launch_bounds__(threads)
take_f32(const float *x, const unsigned *order, int cols, size_t count, float *out) { take(x, order, cols, count, out); }
extern "C" __global__ void __launch_bounds__(threads)
take_bf16(const float *x, const unsigned *order, int cols, size_t count, __nv_bfloat16 *out) { take(x, order, cols, count, out); }
extern "C" __global__ void __launch_bounds__(threads)
take_f16(const float *x, const unsigned *order, int cols, size_t count, __half *out) { take(x, order, cols, count, out); }
EXPORT(take_f32)
EXPORT(take_bf16)
EXPORT(take_f16)

// `x = cap * tanh(x / cap)`.
extern "C" __global__ void __launch_bounds__(threads) soft_cap(float *x, float cap, size_t count) {
  EACH(i, count) x[i] = cap * tanhf(x[i] / cap);
}
EXPORT(soft_cap)

// `x *= factor`.
extern "C" __global__ void __launch_bounds__(threads) scale(float *x, float factor, size_t count) {
  EACH(i, count) x[i] *= factor;
}
EXPORT(scale)

// `out += from`, again from its start where `from` (`[many]`) is shorter.
extern "C" __global__ void __launch_bounds__(threads) add_rows(const float *from, size_t many, size_t count, float *out) {
  EACH(i, count) out[i] += from[i % many];
}
EXPORT(add_rows)

// Row `i` of `out` is row `rows[i]` of `from`; both `width` wide.
extern "C" __global__ void __launch_bounds__(threads)
gather_rows(const float *from, const unsigned *rows, size_t width, size_t count, float *out) {
  EACH(i, count) out[i] = from[rows[i / width] * width + i % width];
}
EXPORT(gather_rows)

// Each token's experts' answers times their weights, from the likeliest expert on, in the order of the processor, added to its row
// of `out` if `add`. `x`: rows sorted by expert, `width` wide; `places`, `weights`: `[tokens, top_k]`.
extern "C" __global__ void __launch_bounds__(threads)
combine(const float *x, const unsigned *places, const float *weights, int top_k, size_t width, size_t count, int add, float *out) {
  EACH(i, count) {
    const size_t first = i / width * top_k;
    float sum = 0;
    for (int k = 0; k < top_k; k++) sum = fmaf(x[places[first + k] * width + i % width], weights[first + k], sum);
    out[i] = add ? __fadd_rn(out[i], sum) : sum;
  }
}
EXPORT(combine)

// `gate = silu(gate) * up`.
extern "C" __global__ void __launch_bounds__(threads) silu_times(float *gate, const float *up, size_t count) {
  EACH(i, count) gate[i] = silu(gate[i]) * up[i];
}
EXPORT(silu_times)
