// Rotary position embedding. Scalings are in the frequencies and in `scale`, so one kernel serves all of them.
#include "compat.cuh"

constexpr int threads = 128;

// Cosines, then sines, of one position: `out`: `[tokens, 2 * half]`.
extern "C" __global__ void __launch_bounds__(threads)
rope_angles(const unsigned *positions, const float *inv_freq, float scale, int half, float *out) {
  float *row = out + size_t(blockIdx.x) * 2 * half;
  const float position = float(positions[blockIdx.x]);
  for (int i = threadIdx.x; i < half; i += threads) {
    // Rounded before the functions see it, as in the reference.
    const float angle = __fmul_rn(position, inv_freq[i]);
    row[i] = cosf(angle) * scale;
    row[half + i] = sinf(angle) * scale;
  }
}
EXPORT(rope_angles)

// Rotates the first `2 * half` values of each of the first `heads` heads of a row. Pairs are neighbours (`interleaved`) or
// `half` apart. `qkv`: `[tokens, width]`; `angles`: `[tokens, 2 * half]`.
extern "C" __global__ void __launch_bounds__(threads)
rope(float *qkv, const float *angles, int heads, int dim, int width, int half, int interleaved) {
  float *row = qkv + size_t(blockIdx.x) * width;
  const float *angle = angles + size_t(blockIdx.x) * 2 * half;
  for (int at = threadIdx.x; at < heads * half; at += threads) {
    const int i = at % half;
    float *head = row + size_t(at / half) * dim;
    float *first = head + (interleaved ? 2 * i : i), *second = head + (interleaved ? 2 * i + 1 : i + half);
    const float x = *first, y = *second, c = angle[i], s = angle[half + i];
    *first = x * c - y * s;
    *second = y * c + x * s;
  }
}
EXPORT(rope)
