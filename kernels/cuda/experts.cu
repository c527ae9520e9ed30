// Which experts a step's tokens go to, known to the device alone: picked, sorted, cut into parts for the products.
#include "weights.cuh"

__device__ __forceinline__ unsigned long long warp_most(unsigned long long value) {
  UNROLL
  for (int bits = 16; bits > 0; bits /= 2) value = max(value, __shfl_xor_sync(full_warp, value, bits));
  return value;
}

// Softmax over a token's experts, the `top_k` largest (of equal ones the lower numbers; a NaN counts as larger than any number),
// divided by their sum if `renormalise`: a warp for each token, sums in the order of the processor. `logits`: `[tokens, experts]`,
// afterwards the probabilities; `chosen`, `weights`: `[tokens, top_k]`.
extern "C" __global__ void __launch_bounds__(32)
route(float *logits, int experts, int top_k, int renormalise, unsigned *chosen, float *weights) {
  const int lane = threadIdx.x;
  float *row = logits + size_t(blockIdx.x) * experts;
  chosen += size_t(blockIdx.x) * top_k;
  weights += size_t(blockIdx.x) * top_k;
  float most = -INFINITY;
  for (int e = lane; e < experts; e += 32)
    if (row[e] > most) most = row[e];
  most = warp_max(most);
  for (int e = lane; e < experts; e += 32) row[e] = expf(row[e] - most);
  __syncwarp();
  float sum = 0;
  for (int e = 0; e < experts; e++) sum += row[e];
  __syncwarp();
  for (int e = lane; e < experts; e += 32) row[e] = __fdiv_rn(row[e], sum);
  __syncwarp();
  // The bits of values from 0 on are in the order of the values; lower numbers are larger.
  unsigned long long last = ~0ull;
  for (int k = 0; k < top_k; k++) {
    unsigned long long best = 0;
    for (int e = lane; e < experts; e += 32) {
      const unsigned long long key = (unsigned long long)(__float_as_uint(row[e]) << 1) << 31 | ~unsigned(e);
      if (key < last && key > best) best = key;
    }
    last = warp_most(best);
    if (lane == 0) {
      chosen[k] = ~unsigned(last);
      weights[k] = row[chosen[k]];
    }
  }
  __syncwarp();
  if (!renormalise) return;
  float all = 0;
  for (int k = 0; k < top_k; k++) all += weights[k];
  __syncwarp();
  for (int k = lane; k < top_k; k += 32) weights[k] = __fdiv_rn(weights[k], all);
}
EXPORT(route)

// Sorts a step's picks by expert, tokens of one expert in their order: block `e`, a warp, has expert `e`. `chosen`, `places`:
// `[rows]`, which is `[tokens, top_k]`; `tokens`: `[rows]`, the token of each row sorted by expert; `starts`: `[experts + 1]`, the
// first row of each expert, and the end of the last.
extern "C" __global__ void __launch_bounds__(32)
sort_by_expert(const unsigned *chosen, int rows, int top_k, unsigned *places, unsigned *tokens, unsigned *starts) {
  const unsigned lane = threadIdx.x, expert = blockIdx.x;
  unsigned next = 0;
  for (int first = 0; first < rows; first += 32) {
    const int i = first + int(lane);
    next += __popc(__ballot_sync(full_warp, i < rows && chosen[i] < expert));
  }
  if (lane == 0) {
    starts[expert] = next;
    if (expert + 1 == gridDim.x) starts[gridDim.x] = rows;
  }
  for (int first = 0; first < rows; first += 32) {
    const int i = first + int(lane);
    const bool mine = i < rows && chosen[i] == expert;
    const unsigned all = __ballot_sync(full_warp, mine);
    if (mine) {
      const unsigned place = next + __popc(all & ((1u << lane) - 1));
      places[i] = place;
      tokens[place] = i / top_k;
    }
    next += __popc(all);
  }
}
EXPORT(sort_by_expert)

// Cuts each expert's rows into parts of `tile` rows at most; those of `count` parts that are left have none.
extern "C" __global__ void __launch_bounds__(128)
cut_by_expert(const unsigned *starts, int experts, int tile, int count, Part *parts) {
  const int part = blockIdx.x * 128 + threadIdx.x;
  if (part >= count) return;
  int left = part;
  for (int e = 0; e < experts; e++) {
    const int first = starts[e], rows = int(starts[e + 1]) - first, here = (rows + tile - 1) / tile;
    if (left < here) {
      parts[part] = {e, first + left * tile, min(tile, rows - left * tile)};
      return;
    }
    left -= here;
  }
  parts[part] = {0, 0, 0};
}
EXPORT(cut_by_expert)
