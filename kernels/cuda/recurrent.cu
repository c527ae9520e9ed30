// States of requests that are updated token by token: one thread for each request, as the tokens of one follow each other.
#include "compat.cuh"

constexpr int threads = 32;
constexpr unsigned none = 0xffffffffu;

using Word = unsigned long long;

// As `recurrent::mix` (SplitMix64's finaliser; Steele, Lea, Flood 2014).
__device__ __forceinline__ Word mix(Word state, Word value) {
  Word z = (state ^ (value + 1) * 0x9e3779b97f4a7c15ull) + 0x632be59bd9b4e019ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return z ^ z >> 31;
}

// `rows`: `[tokens]`. `requests`: `[count + 1]` ends, then `[count]` slots that are read (or `none`), then `[count]` that are written.
// `states`: `[slots, 2]`, a digest and a number of tokens.
extern "C" __global__ void __launch_bounds__(threads) mix_states(float *rows, const unsigned *requests, int count, float *states) {
  const int i = blockIdx.x * threads + threadIdx.x;
  if (i >= count) return;
  const unsigned read = requests[count + 1 + i], write = requests[2 * count + 1 + i];
  float digest = 0, tokens = 0;
  if (read != none) {
    digest = states[2 * size_t(read)];
    tokens = states[2 * size_t(read) + 1];
  }
  for (unsigned r = requests[i]; r < requests[i + 1]; r++) {
    digest = float(mix(mix(Word(digest), Word(tokens)), Word(rows[r])) % 65536);
    tokens += 1;
    rows[r] = digest;
  }
  states[2 * size_t(write)] = digest;
  states[2 * size_t(write) + 1] = tokens;
}
EXPORT(mix_states)
