// Attention over the paged cache on tensor cores, for many queries of one request: FlashAttention-2 (Dao, arXiv:2307.08691). A block
// has up to `16 * warps` queries of one key head, all query heads that share it side by side, so that they share one read of keys
// and values; a warp has 16 of them, in registers all that it sums. Keys and values come into shared memory `tile` tokens at a time,
// as numbers of 16 bits: which are those of the cache, e4m3 and int8 too. Queries and exponentials are rounded to them.
//
// Invariant: what is computed of a query, and in which order, depends on that query's own context alone. Tiles are counted from the
// context's start, and one of which a query sees nothing leaves all that it has so far as it is. What it does not see does not reach
// it: scores are masked; what nobody in the block sees is not read (its block may have been freed) but zero; and a value that is no
// finite number, which 0 would not keep away, becomes 0 and NaN in the sums of those that see it.
#pragma once
#include "attention.cuh"
#include "mma.cuh"

// Bits of the exponent of each of two numbers: all set in what is not finite. Two ones.
template <class T> constexpr unsigned exponents = 0;
template <> constexpr unsigned exponents<__half> = 0x7c007c00u;
template <> constexpr unsigned exponents<__nv_bfloat16> = 0x7f807f80u;
template <class T> constexpr unsigned ones = 0;
template <> constexpr unsigned ones<__half> = 0x3c003c00u;
template <> constexpr unsigned ones<__nv_bfloat16> = 0x3f803f80u;

// The bits of those of two numbers that are not finite, all set.
template <class T> __device__ __forceinline__ unsigned non_finite(unsigned pair) {
  const unsigned set = pair & exponents<T>;
  return ((set & 0xffffu) == (exponents<T> & 0xffffu) ? 0xffffu : 0u) | (set >> 16 == exponents<T> >> 16 ? 0xffff0000u : 0u);
}

// What is stored together, as pairs of T. All are exact: a cache of 16 bits is one of T, and T has the 4 bits of an e4m3 and the 8 of
// an int8.
template <class Store, class T> __device__ __forceinline__ void pairs_of(unsigned stored, unsigned (&pairs)[Store::P / 2]) {
  if constexpr (Store::P == 2) {
    pairs[0] = stored;
  } else {
    float numbers[4];
    Store::widen(stored, numbers);
    pairs[0] = both<T>(numbers[0], numbers[1]);
    pairs[1] = both<T>(numbers[2], numbers[3]);
  }
}

// The bits of tokens `token` and `token + 1` that are among `sees`.
__device__ __forceinline__ unsigned seen_pair(const Seen &sees, int token) {
  return (token >= sees.first && token < sees.last ? 0xffffu : 0u) |
         (token + 1 >= sees.first && token + 1 < sees.last ? 0xffff0000u : 0u);
}

// `warps` of 16 queries, keys and values of up to `D` numbers. From one row to the next 8 more than it has, so that the lanes that read
// a fragment are in 32 banks.
template <class Store, class T, int warps, int D, int tile> struct Tiles {
  static constexpr int threads = 32 * warps, queries = mma_rows * warps, P = Store::P;
  static constexpr int query_step = D + 8, key_step = tile + 8, value_step = D + 8;
  static constexpr int query_words = queries * query_step / 2, key_words = D / 2 * key_step, value_words = tile / 2 * value_step;
  using Number = typename Store::Number;

  T *rows;           // [queries][query_step]
  unsigned *keys;    // [D / 2][key_step], pairs of a token's numbers, as the cache has them
  unsigned *values;  // [tile / 2][value_step], pairs of tokens
  float *scales;     // [2][tile], of int8: of keys, then of values
  unsigned *dirty;   // how many threads found a value that is not finite

  // The queries, rounded; those that there are not are zero, and so is, of these and of the keys, what makes their numbers whole sixteens.
  __device__ __forceinline__ void stage_queries(const float *qkv, const Task &task, const Shape &shape, int heads, int first_head,
                                                int all) {
    const int half = (shape.k_dim + mma_cols - 1) / mma_cols * mma_cols / 2;
    for (int i = threadIdx.x; i < queries * half; i += threads) {
      const int m = i / half, d = i % half * 2;
      unsigned pair = 0;
      if (m < all && d < shape.k_dim) {
        const float *from = qkv + (task.row + m / heads) * shape.qkv_width + size_t(first_head + m % heads) * shape.k_dim + d;
        pair = both<T>(from[0], from[1]);
      }
      *reinterpret_cast<unsigned *>(rows + m * query_step + d) = pair;
    }
    for (int i = shape.k_dim / 2 * key_step + threadIdx.x; i < half * key_step; i += threads) keys[i] = 0;
  }

  // The tokens from `start` on; those that are not among `sees`, which somebody in the block sees, are zero. Sixteen tokens lie in one
  // block of the cache, four numbers of 4 bytes side by side.
  __device__ __forceinline__ void stage(const Shape &shape, const Number *store, const unsigned *table, int kv_head, int start,
                                        const Seen &sees) {
    const Places &places = shape.places;
    for (int at = 0; at < tile; at += 16) {
      const int token = start + at, offset = token % places.block_size;
      const bool some = token < sees.last && token + 16 > sees.first;
      const Number *block = some ? store + places.start(table[token / places.block_size], kv_head) : store;
      auto four = [&](long long from) { return some ? *reinterpret_cast<const uint4 *>(block + from) : uint4{0, 0, 0, 0}; };
      for (int i = threadIdx.x; i < shape.k_dim / P * 4; i += threads) {
        const int d = i / 4 * P, t = i % 4 * 4;
        const uint4 stored = four(places.key<P>(offset + t) + places.key_step<P>(d));
        const unsigned words[4] = {stored.x, stored.y, stored.z, stored.w};
        unsigned pairs[4][P / 2];
        UNROLL
        for (int k = 0; k < 4; k++) {
          pairs_of<Store, T>(words[k], pairs[k]);
          const bool here = token + t + k >= sees.first && token + t + k < sees.last;
          UNROLL
          for (int p = 0; p < P / 2; p++) pairs[k][p] = here ? pairs[k][p] : 0;
        }
        UNROLL
        for (int p = 0; p < P / 2; p++)
          *reinterpret_cast<uint4 *>(keys + (d / 2 + p) * key_step + at + t) = {pairs[0][p], pairs[1][p], pairs[2][p], pairs[3][p]};
      }
      unsigned bad = 0;
      const int fours = shape.v_dim / 4;
      for (int i = threadIdx.x; i < 16 / P * fours; i += threads) {
        const int t = i / fours * P, d = i % fours * 4;
        const uint4 stored = four(places.value<P>(offset + t, d));
        const unsigned words[4] = {stored.x, stored.y, stored.z, stored.w};
        unsigned pairs[4][P / 2];
        UNROLL
        for (int k = 0; k < 4; k++) {
          pairs_of<Store, T>(words[k], pairs[k]);
          UNROLL
          for (int p = 0; p < P / 2; p++) {
            pairs[k][p] &= seen_pair(sees, token + t + 2 * p);
            bad |= non_finite<T>(pairs[k][p]);
          }
        }
        UNROLL
        for (int p = 0; p < P / 2; p++)
          *reinterpret_cast<uint4 *>(values + ((at + t) / 2 + p) * value_step + d) = {pairs[0][p], pairs[1][p], pairs[2][p], pairs[3][p]};
      }
      if (bad) atomicAdd(dirty, 1u);
      if (Store::scaled && threadIdx.x < 32) {
        const int t = threadIdx.x % 16, of_value = threadIdx.x / 16;
        const bool here = token + t >= sees.first && token + t < sees.last;
        scales[of_value * tile + at + t] = here ? *reinterpret_cast<const float *>(block + places.scale(offset + t, of_value)) : 0.0f;
      }
    }
  }

  // Values of a tile that are not finite: NaN in the sums of the queries that see them, then 0. All threads of the block come here.
  __device__ __forceinline__ void settle(const Shape &shape, int start, const Seen (&sees)[2], float (&sums)[D / mma_outputs][4]) {
    const int lane = threadIdx.x % 32, group = lane / 4, member = lane % 4;
    UNROLL
    for (int n = 0; n < D / mma_outputs; n++) {
      if (n * mma_outputs >= shape.v_dim) break;
      // How many of them a query sees: ones times ones.
      float found[4] = {0, 0, 0, 0};
      for (int t = 0; t < tile; t += mma_cols) {
        const int token = start + t + 2 * member;
        const unsigned a[4] = {ones<T> & seen_pair(sees[0], token), ones<T> & seen_pair(sees[1], token),
                               ones<T> & seen_pair(sees[0], token + 8), ones<T> & seen_pair(sees[1], token + 8)};
        const unsigned *from = values + (t / 2 + member) * value_step + n * mma_outputs + group;
        const unsigned b[2] = {ones<T> & non_finite<T>(from[0]), ones<T> & non_finite<T>(from[4 * value_step])};
        mma<T>(a, b, found);
      }
      UNROLL
      for (int i = 0; i < 4; i++)
        if (found[i] > 0) sums[n][i] = __uint_as_float(0x7fc00000u);
    }
    __syncthreads();
    if (threadIdx.x == 0) *dirty = 0;
    for (int i = threadIdx.x; i < tile / 2 * shape.v_dim; i += threads) {
      unsigned &pair = values[i / shape.v_dim * value_step + i % shape.v_dim];
      pair &= ~non_finite<T>(pair);
    }
    __syncthreads();
  }
};

// The largest of the four lanes that share a row of a fragment; their sum.
__device__ __forceinline__ float row_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(full_warp, value, 1));
  return fmaxf(value, __shfl_xor_sync(full_warp, value, 2));
}
__device__ __forceinline__ float row_sum(float value) {
  value += __shfl_xor_sync(full_warp, value, 1);
  return value + __shfl_xor_sync(full_warp, value, 2);
}

// Softmax of the scores so far, of one row: their largest, the sum of exponentials of this lane's tokens; and of int8 the largest scale
// of a value, in units of which the sums of values are, so that exponentials times scales are numbers of 16 bits whatever the scales.
struct Softmax {
  float most, sum, unit;
};

template <class Store, class T, int warps, int D, int tile>
__device__ __forceinline__ void attention_tiles(const float *qkv, const typename Store::Number *store, const Task *tasks,
                                                const unsigned *tables, const Shape &shape, float *out) {
  using Tile = Tiles<Store, T, warps, D, tile>;
  SHARED(uint4, memory, (Tile::query_words + Tile::key_words + Tile::value_words) / 4);
  SHARED(float, scales, Store::scaled ? 2 * tile : 1);
  SHARED(unsigned, dirty, 1);
  unsigned *const words = reinterpret_cast<unsigned *>(memory);
  Tile staged = {reinterpret_cast<T *>(words), words + Tile::query_words, words + Tile::query_words + Tile::key_words, scales, dirty};
  const Task task = tasks[blockIdx.x];
  if (task.rows == 0) return;
  const int kv_head = blockIdx.y / shape.chunks, chunk = blockIdx.y % shape.chunks;
  const int group_heads = shape.q_heads / shape.kv_heads;
  // Query `m` is row `m / heads`, head `m % heads`.
  const int heads = min(shape.heads, group_heads - chunk * shape.heads), all = heads * int(task.rows);
  const int first_head = kv_head * group_heads + chunk * shape.heads;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, member = lane % 4;
  const int first = warp * mma_rows, last = min(all, first + mma_rows) - 1;
  // What the block sees, the warp, and the two queries of this lane. Later rows see neither earlier beginnings nor earlier ends.
  const Seen of_block = {seen(shape, task, 0).first, seen(shape, task, int(task.rows) - 1).last};
  Seen of_warp = {0, 0}, sees[2] = {{0, 0}, {0, 0}};
  if (first < all) of_warp = {seen(shape, task, first / heads).first, seen(shape, task, last / heads).last};
  UNROLL
  for (int h = 0; h < 2; h++)
    if (first + group + 8 * h < all) sees[h] = seen(shape, task, (first + group + 8 * h) / heads);
  Softmax softmax[2] = {{-INFINITY, 0, 0}, {-INFINITY, 0, 0}};
  float sums[D / mma_outputs][4];
  UNROLL
  for (int n = 0; n < D / mma_outputs; n++)
    UNROLL
    for (int i = 0; i < 4; i++) sums[n][i] = 0;
  if (threadIdx.x == 0) *dirty = 0;
  staged.stage_queries(qkv, task, shape, heads, first_head, all);
  __syncthreads();
  for (int start = of_block.first / tile * tile; start < of_block.last; start += tile) {
    staged.stage(shape, store, tables + task.table, kv_head, start, of_block);
#ifndef KOMA_BUG_MISSING_BARRIER
    __syncthreads();
#endif
    if (*dirty) staged.settle(shape, start, sees, sums);
    if (start < of_warp.last && start + tile > of_warp.first) {
      float scores[tile / mma_outputs][4];
      UNROLL
      for (int n = 0; n < tile / mma_outputs; n++)
        UNROLL
        for (int i = 0; i < 4; i++) scores[n][i] = 0;
      for (int d = 0; d < shape.k_dim; d += mma_cols) {
        auto pair = [&](int row, int further) {
          return *reinterpret_cast<const unsigned *>(staged.rows + (first + row) * Tile::query_step + d + 2 * member + further);
        };
        const unsigned a[4] = {pair(group, 0), pair(group + 8, 0), pair(group, 8), pair(group + 8, 8)};
        UNROLL
        for (int n = 0; n < tile / mma_outputs; n++) {
          const unsigned *from = staged.keys + (d / 2 + member) * Tile::key_step + n * mma_outputs + group;
          const unsigned b[2] = {from[0], from[4 * Tile::key_step]};
          mma<T>(a, b, scores[n]);
        }
      }
      float shrink[2];
      UNROLL
      for (int h = 0; h < 2; h++) {
        Softmax &state = softmax[h];
        float most = -INFINITY, unit = 0;
        UNROLL
        for (int n = 0; n < tile / mma_outputs; n++)
          UNROLL
          for (int i = 0; i < 2; i++) {
            const int t = n * mma_outputs + 2 * member + i;
            float score = scores[n][2 * h + i] * shape.scale;
            if (Store::scaled) score *= scales[t];
            if (shape.cap > 0) score = shape.cap * tanhf(score / shape.cap);
            const bool visible = start + t >= sees[h].first && start + t < sees[h].last;
            scores[n][2 * h + i] = visible ? score : -INFINITY;
            most = fmaxf(most, scores[n][2 * h + i]);
            if (Store::scaled && visible) unit = fmaxf(unit, scales[tile + t]);
          }
        most = fmaxf(state.most, row_max(most));
        // Where none is seen so far, or all that are are -inf, exponentials are 0. (A NaN stays one.)
        const float base = most == -INFINITY ? 0.0f : most;
        constexpr float log2e = 1.4426950408889634f;
        shrink[h] = exp2f(log2e * (state.most - base));
        state.sum *= shrink[h];
        state.most = most;
        float factor = 1;
        if (Store::scaled) {
          unit = fmaxf(state.unit, row_max(unit));
          // A tile whose scales are no larger changes nothing.
          if (unit > 0) shrink[h] *= __fdiv_rn(state.unit, unit);
          factor = unit > 0 ? __fdiv_rn(1.0f, unit) : 0.0f;
          state.unit = unit;
        }
        UNROLL
        for (int n = 0; n < tile / mma_outputs; n++)
          UNROLL
          for (int i = 0; i < 2; i++) {
            float &score = scores[n][2 * h + i];
            const bool none = score == -INFINITY;
            score = exp2f(log2e * (score - base));
            state.sum += score;
            if (Store::scaled) score = none ? 0.0f : score * (scales[tile + n * mma_outputs + 2 * member + i] * factor);
          }
      }
      UNROLL
      for (int n = 0; n < D / mma_outputs; n++)
        UNROLL
        for (int i = 0; i < 4; i++) sums[n][i] *= shrink[i / 2];
      UNROLL
      for (int k = 0; k < tile / mma_cols; k++) {
        // The sums of the first product lie as the second one's factors do.
        const float(&low)[4] = scores[2 * k], (&high)[4] = scores[2 * k + 1];
        const unsigned a[4] = {both<T>(low[0], low[1]), both<T>(low[2], low[3]), both<T>(high[0], high[1]), both<T>(high[2], high[3])};
        UNROLL
        for (int n = 0; n < D / mma_outputs; n++) {
          if (n * mma_outputs >= shape.v_dim) break;
          const unsigned *from = staged.values + (k * mma_outputs + member) * Tile::value_step + n * mma_outputs + group;
          const unsigned b[2] = {from[0], from[4 * Tile::value_step]};
          mma<T>(a, b, sums[n]);
        }
      }
    }
    __syncthreads();
  }
  UNROLL
  for (int h = 0; h < 2; h++) {
    const int m = first + group + 8 * h;
    const float scale = (Store::scaled ? softmax[h].unit : 1.0f) / row_sum(softmax[h].sum);
    if (m >= all) continue;
    float *to = out + (size_t(task.out + m / heads) * shape.q_heads + first_head + m % heads) * shape.v_dim + 2 * member;
    UNROLL
    for (int n = 0; n < D / mma_outputs; n++) {
      if (n * mma_outputs >= shape.v_dim) break;
      to[n * mma_outputs] = sums[n][2 * h] * scale;
      to[n * mma_outputs + 1] = sums[n][2 * h + 1] * scale;
    }
  }
}
