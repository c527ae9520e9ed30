// Attention over the paged cache in plain multiply-adds, for any number of queries, of which many of one request go through
// `attention_tiles.cuh` where they can: one warp works on up to `Q` queries of one key head at a time, a lane holding one of 32
// tokens in the product with keys and some values of the head in the product with values.
//
// Invariant: what is computed of a query, and in which order, depends on that query's own context alone: tiles of 32 tokens and
// splits of `split` tokens counted from the context's start. A split is summed by itself and splits are merged in their order,
// whether one block does them all or each has its own.
#include "attention.cuh"

constexpr int threads = 128, warps = threads / 32;
constexpr int tile = 32;
// Tokens of a split.
constexpr int split = 256;

// Softmax of the scores so far: their largest, the sum of exponentials, and with them the sums of values (`C` of them a lane).
template <int C> struct State {
  float most, sum, values[C];

  __device__ __forceinline__ void clear() {
    most = -INFINITY;
    sum = 0;
    UNROLL
    for (int c = 0; c < C; c++) values[c] = 0;
  }
  // Adds a later split.
  __device__ __forceinline__ void merge(const State &other) {
    // A split of which nothing is seen. (One with a NaN has a sum of NaN.)
    if (other.sum == 0) return;
    const float both = fmaxf(most, other.most);
    const float mine = expf(most - both), its = expf(other.most - both);
    sum = fmaf(other.sum, its, __fmul_rn(sum, mine));
    UNROLL
    for (int c = 0; c < C; c++) values[c] = fmaf(other.values[c], its, __fmul_rn(values[c], mine));
    most = both;
  }
};

// One split of up to `Q` queries. `queries[j]`: `[k_dim]`, shared.
template <class Store, int Q, int C>
__device__ __forceinline__ void attend_split(const Shape &shape, const Task &task, int kv_head, const typename Store::Number *store,
                                             const unsigned *table, int at, const float *const *queries, const Seen *sees,
                                             State<C> *states) {
  constexpr int P = Store::P;
  const int lane = threadIdx.x % 32;
  const Places &places = shape.places;
  int first = at + split, last = at;
  UNROLL
  for (int j = 0; j < Q; j++) {
    states[j].clear();
    const int begin = max(at, sees[j].first), end = min(at + split, sees[j].last);
    // What one that sees nothing here would add may have been freed.
    if (begin < end) {
      first = min(first, begin);
      last = max(last, end);
    }
  }
  for (int start = first / tile * tile; start < last; start += tile) {
    const int token = start + lane;
    const bool here = token >= first && token < last;
    // Lanes without a token read none: their block may have been freed.
    const int offset = token % places.block_size;
    const typename Store::Number *block = here ? store + places.start(table[token / places.block_size], kv_head) : store;
    float scores[Q];
    UNROLL
    for (int j = 0; j < Q; j++) scores[j] = 0;
    if (here) {
      const typename Store::Number *key = block + places.key<P>(offset);
      for (int d = 0; d < shape.k_dim; d += P) {
        float numbers[P];
        Store::widen(*reinterpret_cast<const unsigned *>(key + places.key_step<P>(d)), numbers);
        UNROLL
        for (int i = 0; i < P; i++) {
          if (d + i >= shape.k_dim) break;
          UNROLL
          for (int j = 0; j < Q; j++) scores[j] = fmaf(queries[j][d + i], numbers[i], scores[j]);
        }
      }
    }
    float key_scale = 1, value_scale = 1;
    if (Store::scaled && here) {
      key_scale = *reinterpret_cast<const float *>(block + places.scale(offset, 0));
      value_scale = *reinterpret_cast<const float *>(block + places.scale(offset, 1));
    }
    UNROLL
    for (int j = 0; j < Q; j++) {
      float score = Store::scaled ? scores[j] * key_scale * shape.scale : scores[j] * shape.scale;
      if (shape.cap > 0) score = shape.cap * tanhf(score / shape.cap);
      const bool visible = token >= sees[j].first && token < min(sees[j].last, at + split);
      const float most = warp_max(visible ? score : -INFINITY);
      // None is seen, or all that are seen are -inf: then nothing changes. (A NaN is in the sum below.)
      State<C> &state = states[j];
      const float both = fmaxf(state.most, most);
      const float shrink = both == -INFINITY ? 1.0f : expf(state.most - both);
      float weight = visible ? (both == -INFINITY ? score - score : expf(score - both)) : 0.0f;
      if (max(start, sees[j].first) < min(start + tile, min(sees[j].last, at + split))) {
        state.sum = fmaf(state.sum, shrink, warp_sum(weight));
        state.most = both;
        UNROLL
        for (int c = 0; c < C; c++) state.values[c] *= shrink;
      }
      scores[j] = Store::scaled && visible ? weight * value_scale : weight;
    }
    // Values, `P` tokens at a time: those lie together.
    for (int t = max(start, first) / P * P; t < min(start + tile, last); t += P) {
      const typename Store::Number *values =
          store + places.start(table[t / places.block_size], kv_head) + places.value<P>(t % places.block_size, 0);
      float numbers[C][P];
      UNROLL
      for (int c = 0; c < C; c++) {
        const int d = lane + 32 * c;
        if (d < shape.v_dim) Store::widen(*reinterpret_cast<const unsigned *>(values + size_t(d) * P), numbers[c]);
        else {
          UNROLL
          for (int i = 0; i < P; i++) numbers[c][i] = 0;
        }
      }
      UNROLL
      for (int i = 0; i < P; i++) {
        UNROLL
        for (int j = 0; j < Q; j++) {
          const float weight = __shfl_sync(full_warp, scores[j], (t + i) % tile);
          // What a query does not see must not reach it, not even as 0 times a NaN.
          if (t + i < sees[j].first || t + i >= min(sees[j].last, at + split)) continue;
          UNROLL
          for (int c = 0; c < C; c++) states[j].values[c] = fmaf(weight, numbers[c][i], states[j].values[c]);
        }
      }
    }
  }
}

// The layout of a split's state in memory: `[v_dim]` sums of values, the largest score, the sum of exponentials.
__device__ __forceinline__ size_t state_len(int v_dim) { return size_t(v_dim) + 2; }

template <class Store, int Q, int C>
__device__ __forceinline__ void attention(const float *qkv, const typename Store::Number *store, const Task *tasks,
                                          const unsigned *tables, Shape shape, float *out, float *states) {
  DYNAMIC_SHARED(float, queries);  // [warps * Q, k_dim]
  const Task task = tasks[blockIdx.x];
  const int kv_head = blockIdx.y / shape.chunks, chunk = blockIdx.y % shape.chunks;
  const int group = shape.q_heads / shape.kv_heads;
  const int first_head = chunk * shape.heads, heads = min(shape.heads, group - first_head);
  const int all = heads * int(task.rows), lane = threadIdx.x % 32;
  // Query `m` is row `m / heads`, head `m % heads`; a warp has every `warps`th.
  for (int i = threadIdx.x; i < all * shape.k_dim; i += threads) {
    const int m = i / shape.k_dim, head = kv_head * group + first_head + m % heads;
    queries[i] = qkv[(task.row + m / heads) * shape.qkv_width + size_t(head) * shape.k_dim + i % shape.k_dim];
  }
  __syncthreads();
  const float *mine[Q];
  Seen sees[Q];
  UNROLL
  for (int j = 0; j < Q; j++) {
    const int m = threadIdx.x / 32 + warps * j;
    mine[j] = queries + size_t(m < all ? m : 0) * shape.k_dim;
    sees[j] = {0, 0};
    if (m < all) sees[j] = seen(shape, task, m / heads);
  }
  State<C> total[Q], part[Q];
  UNROLL
  for (int j = 0; j < Q; j++) total[j].clear();
  const unsigned begin = task.split == whole ? 0 : task.split, end = task.split == whole ? task.splits : task.split + 1;
  const unsigned *table = tables + task.table;
  for (unsigned s = begin; s < end; s++) {
    attend_split<Store, Q, C>(shape, task, kv_head, store, table, int(s) * split, mine, sees, part);
    UNROLL
    for (int j = 0; j < Q; j++) {
      // A context that several blocks share is merged by `merge_splits`, in the same order.
      if (task.split == whole) total[j].merge(part[j]);
      else total[j] = part[j];
    }
  }
  UNROLL
  for (int j = 0; j < Q; j++) {
    const int m = threadIdx.x / 32 + warps * j;
    if (m >= all) continue;
    const int head = kv_head * group + first_head + m % heads;
    float *to = out + (size_t(task.out + m / heads) * shape.q_heads + head) * shape.v_dim;
    float scale = 1.0f / total[j].sum;
    if (task.split != whole) {
      const size_t local = size_t(m / heads) * shape.q_heads + head;
      to = states + ((task.state + local) * task.splits + task.split) * state_len(shape.v_dim);
      scale = 1;
      if (lane == 0) {
        to[shape.v_dim] = total[j].most;
        to[shape.v_dim + 1] = total[j].sum;
      }
    }
    UNROLL
    for (int c = 0; c < C; c++) {
      const int d = lane + 32 * c;
      if (d < shape.v_dim) to[d] = task.split == whole ? total[j].values[c] * scale : total[j].values[c];
    }
  }
}

// Merges the splits of the tasks whose context was shared: one warp for each query. `grid`: tasks, query heads.
template <int C>
__device__ __forceinline__ void merge_splits(const Task *tasks, Shape shape, const float *states, float *out) {
  const Task task = tasks[blockIdx.x];
  const int lane = threadIdx.x % 32, head = blockIdx.y;
  for (unsigned row = threadIdx.x / 32; row < task.rows; row += warps) {
    const float *from = states + (task.state + size_t(row) * shape.q_heads + head) * task.splits * state_len(shape.v_dim);
    State<C> total, part;
    total.clear();
    for (unsigned s = 0; s < task.splits; s++, from += state_len(shape.v_dim)) {
      part.most = from[shape.v_dim];
      part.sum = from[shape.v_dim + 1];
      UNROLL
      for (int c = 0; c < C; c++) part.values[c] = lane + 32 * c < shape.v_dim ? from[lane + 32 * c] : 0;
      total.merge(part);
    }
    float *to = out + (size_t(task.out + row) * shape.q_heads + head) * shape.v_dim;
    const float scale = 1.0f / total.sum;
    UNROLL
    for (int c = 0; c < C; c++)
      if (lane + 32 * c < shape.v_dim) to[lane + 32 * c] = total.values[c] * scale;
  }
}

#define ATTENTION(store, Store, Q, C)                                                                                     \
  extern "C" __global__ void __launch_bounds__(threads, 1) attention_##store##_q##Q##_c##C(                                   \
      const float *qkv, const Store::Number *cache, const Task *tasks, const unsigned *tables, Shape shape, float *out,    \
      float *states) {                                                                                                     \
    attention<Store, Q, C>(qkv, cache, tasks, tables, shape, out, states);                                                 \
  }                                                                                                                        \
  EXPORT(attention_##store##_q##Q##_c##C)

#define EACH_WIDTH(store, Store, Q) \
  ATTENTION(store, Store, Q, 1)     \
  ATTENTION(store, Store, Q, 2)     \
  ATTENTION(store, Store, Q, 4)     \
  ATTENTION(store, Store, Q, 8)

#define EACH_COUNT(store, Store) \
  EACH_WIDTH(store, Store, 1)    \
  EACH_WIDTH(store, Store, 4)

EACH_COUNT(f32, F32Store)
EACH_COUNT(bf16, Bf16Store)
EACH_COUNT(f16, F16Store)
EACH_COUNT(fp8, Fp8Store)
EACH_COUNT(int8, Int8Store)

#define MERGE(C)                                                                                                      \
  extern "C" __global__ void __launch_bounds__(threads) merge_splits_c##C(const Task *tasks, Shape shape, const float *states, \
                                                                          float *out) {                                        \
    merge_splits<C>(tasks, shape, states, out);                                                                                \
  }                                                                                                                            \
  EXPORT(merge_splits_c##C)
MERGE(1)
MERGE(2)
MERGE(4)
MERGE(8)
