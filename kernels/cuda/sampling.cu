// Choosing tokens from rows of logits: what the engine's sampler does on the processor, operation by operation and in the same
// order, so that both choose the same token with the same noise. One block for each row or choice.
//
// Invariant: every sum has one order, that of the processor: parts of 512 tokens, in each of them 8 sums of every eighth token in
// f32, all else one after another in f64; nothing is multiplied and added at once.
#include "compat.cuh"

constexpr int threads = 512, warps = threads / 32;
constexpr int part = 512;      // tokens that are summed at once
constexpr int sums = 8;        // of a part
constexpr int most = 1024;     // best tokens that can be put in order
constexpr int most_tops = 20;  // best tokens that are told

using Key = unsigned long long;

// A row, how many of its best tokens are told (-1: none, nor what log-probabilities need), and how it is edited: the number of its mask
// (-1: all tokens may come), its place among the changes, and the penalties.
struct RowTask {
  unsigned row;
  int tops, mask, first_change, changes;
  float repetition, frequency, presence;
};

// What is known of one token whose logit may change; those of a row ascend.
struct Change {
  unsigned id;
  float bias;
  unsigned seen;   // in prompt or output
  unsigned count;  // in the output
};

struct RowFacts {
  double mass;  // sum of e^(logit - max)
  float max;
  unsigned finite;
};

// `row`: number of a row task.
struct Choice {
  double uniform;
  unsigned row;
  int top_k;  // 0: all
  float temperature, top_p, min_p, unused;
};

struct Chosen {
  unsigned id;
  unsigned state;  // 0: chosen, 1: the row is not finite, 2: the processor must choose
  float logit;     // before edits; -inf if they left no token
};

struct Best {
  float value;
  unsigned id;
};

__device__ __forceinline__ bool better(const Best &a, const Best &b) { return a.value > b.value || (a.value == b.value && a.id < b.id); }

// e^x for x <= 0 as the engine's sampler computes it (Cephes `expf`, Moshier).
__device__ __forceinline__ float exponential(float x) {
  const float round = 12582912.0f;
  const float clamped = x > -87.0f ? x : -87.0f;
  const float rounded = __fadd_rn(__fmul_rn(clamped, 1.4426950408889634f), round);
  const float n = __fsub_rn(rounded, round);
  const float r = __fadd_rn(__fsub_rn(clamped, __fmul_rn(n, 0.6933594f)), __fmul_rn(n, 2.1219444e-4f));
  float p = 1.9875691e-4f;
  p = __fadd_rn(__fmul_rn(p, r), 1.3981999e-3f);
  p = __fadd_rn(__fmul_rn(p, r), 8.333452e-3f);
  p = __fadd_rn(__fmul_rn(p, r), 4.1665796e-2f);
  p = __fadd_rn(__fmul_rn(p, r), 0.16666665f);
  p = __fadd_rn(__fmul_rn(p, r), 0.5f);
  const float y = __fadd_rn(__fadd_rn(__fmul_rn(p, __fmul_rn(r, r)), r), 1.0f);
  const unsigned exponent = (__float_as_uint(rounded) - __float_as_uint(round) + 127u) << 23;
  return x > -87.0f ? __fmul_rn(y, __uint_as_float(exponent)) : 0.0f;
}

// Logits to weights: the best token of the row has weight 1.
struct Scale {
  float max, temperature;

  __device__ __forceinline__ float weight(float logit) const { return exponential(__fdiv_rn(__fsub_rn(logit, max), temperature)); }
  __device__ __forceinline__ float weight_above(float logit, float min) const {
    const float value = weight(logit);
    return value < min ? 0.0f : value;
  }
};

// What the threads of a block share.
struct Shared {
  Best *bests;          // [warps]
  double *stage;        // [part]
  float *weights;       // [most]
  Key *keys;            // [most]
  unsigned *histogram;  // [256]
  unsigned *words;      // [4]
  double *number;       // [1]
};

#define SHARE(name)                  \
  SHARED(Best, bests, warps);        \
  SHARED(double, stage, part);       \
  SHARED(float, weights, most);      \
  SHARED(Key, keys, most);           \
  SHARED(unsigned, histogram, 256);  \
  SHARED(unsigned, words, 4);        \
  SHARED(double, number, 1);         \
  const Shared name = {bests, stage, weights, keys, histogram, words, number}

__device__ __forceinline__ bool all_finite(const float *row, int vocab, const Shared &shared) {
  float bad = 0;
  for (int i = threadIdx.x; i < vocab; i += threads)
    if ((__float_as_uint(row[i]) & 0x7f800000u) == 0x7f800000u) bad = 1;
  bad = warp_max(bad);
  if (threadIdx.x % 32 == 0) shared.bests[threadIdx.x / 32].value = bad;
  __syncthreads();
  for (int i = 0; i < warps; i++) bad = fmaxf(bad, shared.bests[i].value);
  __syncthreads();
  return bad == 0;
}

// The largest logit and the lowest id that has it.
__device__ __forceinline__ Best best_of(const float *row, int vocab, const Shared &shared) {
  Best best = {-INFINITY, 0xffffffffu};
  for (int i = threadIdx.x; i < vocab; i += threads) {
    const Best other = {row[i], unsigned(i)};
    if (better(other, best)) best = other;
  }
  for (int bits = 16; bits > 0; bits /= 2) {
    const Best other = {__shfl_xor_sync(full_warp, best.value, bits), __shfl_xor_sync(full_warp, best.id, bits)};
    if (better(other, best)) best = other;
  }
  if (threadIdx.x % 32 == 0) shared.bests[threadIdx.x / 32] = best;
  __syncthreads();
  for (int i = 0; i < warps; i++)
    if (better(shared.bests[i], best)) best = shared.bests[i];
  __syncthreads();
  return best;
}

__device__ __forceinline__ int parts_of(int vocab) { return (vocab + part - 1) / part; }

// The sum of all weights that are at least `min`. `masses`: `[parts_of(vocab)]`, those of the parts.
__device__ __forceinline__ double mass_of(const float *row, int vocab, const Scale &scale, float min, double *masses, const Shared &shared) {
  const int parts = parts_of(vocab), at = threadIdx.x % sums;
  for (int first = 0; first < parts; first += threads / sums) {
    const int number = first + threadIdx.x / sums;
    const float *from = row + size_t(number) * part;
    const int len = number < parts ? ::min(part, vocab - number * part) : 0;
    float sum = 0;
    for (int i = at; i < len / sums * sums; i += sums) sum = __fadd_rn(sum, scale.weight_above(from[i], min));
    double total = 0;
    for (int i = 0; i < sums; i++) total += double(__shfl_sync(full_warp, sum, threadIdx.x % 32 / sums * sums + i));
    float rest = 0;
    for (int i = len / sums * sums; i < len; i++) rest = __fadd_rn(rest, scale.weight_above(from[i], min));
    if (at == 0 && number < parts) masses[number] = total + double(rest);
  }
  __syncthreads();
  double sum = 0;
  for (int first = 0; first < parts; first += part) {
    if (first + int(threadIdx.x) < parts) shared.stage[threadIdx.x] = masses[first + threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0)
      for (int i = 0; i < ::min(part, parts - first); i++) sum += shared.stage[i];
    __syncthreads();
  }
  if (threadIdx.x == 0) *shared.number = sum;
  __syncthreads();
  sum = *shared.number;
  __syncthreads();
  return sum;
}

// Better tokens have higher keys; of equal logits the lower id is the better one.
__device__ __forceinline__ Key key_of(float logit, int id) {
  unsigned bits = __float_as_uint(logit);
  bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return Key(bits) << 32 | (0xffffffffu - unsigned(id));
}
__device__ __forceinline__ unsigned id_of(Key key) { return 0xffffffffu - unsigned(key); }

// The `count` best tokens in `shared.keys`, best first. `count`: from 1 to `most` and to `vocab`.
__device__ __forceinline__ void select(const float *row, int vocab, int count, const Shared &shared) {
  // The key of the last one, digit by digit: `known` has the digits that are, `needed` of those with them are wanted.
  Key known = 0, bar = 0;
  unsigned needed = count;
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += threads) shared.histogram[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < vocab; i += threads) {
      const Key key = key_of(row[i], i);
      if ((key & known) == bar) atomicAdd(&shared.histogram[key >> shift & 255], 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      unsigned digit = 255, above = 0;
      while (above + shared.histogram[digit] < needed) above += shared.histogram[digit--];
      shared.words[0] = digit;
      shared.words[1] = needed - above;
      shared.words[2] = shared.histogram[digit] == needed - above;
      shared.words[3] = 0;
    }
    __syncthreads();
    known |= Key(255) << shift;
    bar |= Key(shared.words[0]) << shift;
    needed = shared.words[1];
    const bool all = shared.words[2];
    __syncthreads();
    if (all) break;
  }
  for (int i = threadIdx.x; i < vocab; i += threads) {
    const Key key = key_of(row[i], i);
    if ((key & known) >= bar) shared.keys[atomicAdd(&shared.words[3], 1u)] = key;
  }
  int size = 1;
  while (size < count) size *= 2;
  for (int i = count + threadIdx.x; i < size; i += threads) shared.keys[i] = 0;
  __syncthreads();
  // A bitonic sort.
  for (int run = 2; run <= size; run *= 2) {
    for (int step = run / 2; step > 0; step /= 2) {
      for (int t = threadIdx.x; t < size / 2; t += threads) {
        const int i = 2 * t - (t & (step - 1)), j = i + step;
        const Key a = shared.keys[i], b = shared.keys[j];
        if ((a < b) == ((i & run) == 0)) {
          shared.keys[i] = b;
          shared.keys[j] = a;
        }
      }
      __syncthreads();
    }
  }
}

// The token at which the sum of all weights in the order of ids goes beyond `left`; `best` if none does.
__device__ __forceinline__ unsigned walk(const float *row, int vocab, const Scale &scale, float min, double left, unsigned best,
                                         const double *masses, const Shared &shared) {
  const int parts = parts_of(vocab);
  if (threadIdx.x == 0) shared.words[0] = parts;
  for (int first = 0; first < parts; first += part) {
    if (first + int(threadIdx.x) < parts) shared.stage[threadIdx.x] = masses[first + threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0 && int(shared.words[0]) == parts) {
      for (int i = 0; i < ::min(part, parts - first); i++) {
        if (!(shared.stage[i] <= left)) {
          shared.words[0] = first + i;
          break;
        }
        left -= shared.stage[i];
      }
    }
    __syncthreads();
  }
  const int number = shared.words[0], start = number * part, len = ::min(part, vocab - start);
  if (number == parts) return best;
  for (int i = threadIdx.x; i < len; i += threads) shared.weights[i] = scale.weight_above(row[start + i], min);
  __syncthreads();
  unsigned chosen = start;
  if (threadIdx.x == 0) {
    for (int i = 0; i < len; i++) {
      const double weight = shared.weights[i];
      if (!(weight > 0)) continue;
      chosen = start + i;
      if (left < weight) break;
      left -= weight;
    }
  }
  return chosen;
}

// Chooses among the best tokens in `shared.keys`, `count` of them, by the first thread alone. `whole`: they are all that there are or
// that may be. False: more would have to be looked at.
__device__ __forceinline__ bool among_best(const Choice &choice, int count, bool whole, double mass, const Shared &shared, unsigned &id) {
  if (choice.top_p < 1) {
    const double wanted = __dmul_rn(double(choice.top_p), mass);
    double sum = 0;
    int kept = 0;
    while (kept < count && !(sum >= wanted && kept > 0)) sum += double(shared.weights[kept++]);
    if (!(sum >= wanted) && !whole) return false;
    count = kept;
  }
  int kept = 0;
  while (kept < count && !(shared.weights[kept] < choice.min_p)) kept++;
  count = ::max(kept, 1);
  double sum = 0;
  for (int i = 0; i < count; i++) sum += double(shared.weights[i]);
  double left = __dmul_rn(choice.uniform, sum);
  int at = 0;
  for (; at < count - 1; at++) {
    left -= double(shared.weights[at]);
    if (left < 0) break;
  }
  id = id_of(shared.keys[at]);
  return true;
}

// What is asked of rows. `masses`: `[tasks, parts_of(vocab)]`; `tops`: `[tasks, most_tops]` ids, then as many logits.
extern "C" __global__ void __launch_bounds__(threads, 1)
look_at_rows(const float *logits, int vocab, const RowTask *tasks, double *masses, RowFacts *facts, unsigned *tops, float *logits_of_tops) {
  SHARE(shared);
  const RowTask task = tasks[blockIdx.x];
  const float *row = logits + size_t(task.row) * vocab;
  const bool finite = all_finite(row, vocab, shared);
  RowFacts known = {0, 0, finite};
  if (finite && task.tops >= 0) {
    const Scale scale = {best_of(row, vocab, shared).value, 1.0f};
    known.max = scale.max;
    known.mass = mass_of(row, vocab, scale, 0, masses + size_t(blockIdx.x) * parts_of(vocab), shared);
    const int count = min(task.tops, vocab);
    if (count > 0) select(row, vocab, count, shared);
    for (int i = threadIdx.x; i < count; i += threads) {
      const unsigned id = id_of(shared.keys[i]);
      tops[blockIdx.x * most_tops + i] = id;
      logits_of_tops[blockIdx.x * most_tops + i] = row[id];
    }
  }
  if (threadIdx.x == 0) facts[blockIdx.x] = known;
}
EXPORT(look_at_rows)

// Takes tokens away. `pairs`: `[count, 2]`, a row and an id, which the row may lack.
extern "C" __global__ void __launch_bounds__(256) take_tokens_away(float *logits, int vocab, const unsigned *pairs, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count && pairs[2 * i + 1] < unsigned(vocab)) logits[size_t(pairs[2 * i]) * vocab + pairs[2 * i + 1]] = -INFINITY;
}
EXPORT(take_tokens_away)

__device__ __forceinline__ float changed(float x, const Change &change, const RowTask &task) {
  const float largest = 3.4028234663852886e38f;
  x = __fadd_rn(x, change.bias);
  if (change.seen) {
    const float more = x > 0 ? __fdiv_rn(x, task.repetition) : __fmul_rn(x, task.repetition);
    x = more > largest ? largest : more;
  }
  if (change.count > 0) {
    x = __fsub_rn(x, __fmul_rn(task.frequency, float(change.count)));
    x = __fsub_rn(x, task.presence);
  }
  return x;
}

// Edits rows: masks first, then changes. `masks`: `[.., words]`, a bit for each token; `before`: the logits of changed tokens as they were.
extern "C" __global__ void __launch_bounds__(256)
edit_rows(float *logits, int vocab, const RowTask *tasks, const unsigned *masks, int words, const Change *changes, float *before) {
  const RowTask task = tasks[blockIdx.x];
  float *row = logits + size_t(task.row) * vocab;
  for (int i = threadIdx.x; i < task.changes; i += blockDim.x) {
    const unsigned id = changes[task.first_change + i].id;
    before[task.first_change + i] = id < unsigned(vocab) ? row[id] : -INFINITY;
  }
  __syncthreads();
  if (task.mask >= 0) {
    const unsigned *mask = masks + size_t(task.mask) * words;
    for (int i = threadIdx.x; i < vocab; i += blockDim.x)
      if (i / 32 >= words || !(mask[i / 32] >> (i % 32) & 1)) row[i] = -INFINITY;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < task.changes; i += blockDim.x) {
    const Change change = changes[task.first_change + i];
    if (change.id < unsigned(vocab)) row[change.id] = changed(row[change.id], change, task);
  }
}
EXPORT(edit_rows)

// The logit of a token before edits.
__device__ __forceinline__ float before_edits(const float *row, unsigned id, const RowTask &task, const Change *changes, const float *before) {
  int low = task.first_change, high = low + task.changes;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (changes[middle].id < id) low = middle + 1;
    else high = middle;
  }
  const bool found = low < task.first_change + task.changes && changes[low].id == id;
  return found ? before[low] : row[id];
}

// Chooses. `masses`: `[choices, parts_of(vocab)]`.
extern "C" __global__ void __launch_bounds__(threads, 1)
choose_tokens(const float *logits, int vocab, const RowTask *tasks, const RowFacts *facts, const Choice *choices, double *masses,
              const Change *changes, const float *before, Chosen *out) {
  SHARE(shared);
  const Choice choice = choices[blockIdx.x];
  const float *row = logits + size_t(tasks[choice.row].row) * vocab;
  Chosen chosen = {0, 1, 0};
  bool none_left = false;
  if (facts[choice.row].finite) {
    const Best best = best_of(row, vocab, shared);
    chosen = {best.id, 0, 0};
    const int top_k = choice.top_k == 0 ? vocab : min(choice.top_k, vocab);
    const Scale scale = {best.value, choice.temperature};
    masses += size_t(blockIdx.x) * parts_of(vocab);
    none_left = best.value == -INFINITY;
    if (choice.temperature <= 0 || none_left) {
      // The best one.
    } else if (top_k == vocab && choice.top_p >= 1) {
      const double mass = mass_of(row, vocab, scale, choice.min_p, masses, shared);
      chosen.id = walk(row, vocab, scale, choice.min_p, __dmul_rn(choice.uniform, mass), best.id, masses, shared);
    } else if (top_k < vocab && top_k > most) {
      chosen.state = 2;
    } else {
      const int count = min(top_k, most);
      double mass = top_k == vocab ? mass_of(row, vocab, scale, 0, masses, shared) : 0;
      select(row, vocab, count, shared);
      for (int i = threadIdx.x; i < count; i += threads) shared.weights[i] = scale.weight(row[id_of(shared.keys[i])]);
      __syncthreads();
      if (threadIdx.x == 0) {
        if (top_k < vocab)
          for (int i = 0; i < count; i++) mass += double(shared.weights[i]);
        chosen.state = among_best(choice, count, top_k < vocab || count == vocab, mass, shared, chosen.id) ? 0 : 2;
      }
    }
  }
  if (threadIdx.x == 0) {
    chosen.logit = none_left ? -INFINITY : before_edits(row, chosen.id, tasks[choice.row], changes, before);
    out[blockIdx.x] = chosen;
  }
}
EXPORT(choose_tokens)
