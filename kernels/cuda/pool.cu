// From the rows of a text's tokens to one vector: a block for each text, mode and 256 columns, a thread for each column. Sums are in
// the order of the tokens, and nothing is multiplied and added at once: the bits are those of the processor's body.
#include "compat.cuh"

constexpr int threads = 256;

// As `Pooling`, in its order.
enum Mode { cls, largest, mean, mean_sqrt_len, weighted_mean, last };

// `texts`: `[count + 1]` ends, then `[count]` numbers of first tokens that take no part, then `[modes]`. `hidden`: `[tokens, width]`;
// `out`: `[count, modes, width]`. `grid`: texts, modes, parts of a row.
extern "C" __global__ void __launch_bounds__(threads) pool_rows(const float *hidden, const unsigned *texts, int count, int width, float *out) {
  const unsigned start = texts[blockIdx.x], end = texts[blockIdx.x + 1];
  const unsigned first = start + texts[count + 1 + blockIdx.x];
  const unsigned mode = texts[2 * count + 1 + blockIdx.y];
  const int col = blockIdx.z * threads + threadIdx.x;
  if (col >= width) return;
  const float *x = hidden + col;
  float value = x[size_t(mode == last ? end - 1 : first) * width];
  float weights = 0;
  if (mode == weighted_mean) {
    weights = float(first - start + 1);
    value = __fmul_rn(value, weights);
  }
  if (mode != cls && mode != last) {
    for (unsigned r = first + 1; r < end; r++) {
      const float other = x[size_t(r) * width], weight = float(r - start + 1);
      if (mode == largest) {
        value = fmaxf(value, other);
      } else if (mode == weighted_mean) {
        value = __fadd_rn(value, __fmul_rn(other, weight));
        weights = __fadd_rn(weights, weight);
      } else {
        value = __fadd_rn(value, other);
      }
    }
  }
  const float tokens = float(end - first);
  if (mode == mean) value = __fdiv_rn(value, tokens);
  if (mode == mean_sqrt_len) value = __fdiv_rn(value, __fsqrt_rn(tokens));
  if (mode == weighted_mean) value = __fdiv_rn(value, weights);
  out[(size_t(blockIdx.x) * gridDim.y + blockIdx.y) * width + col] = value;
}
EXPORT(pool_rows)
