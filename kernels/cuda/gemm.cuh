// Products in tiles: a block computes 64 outputs of up to 64 rows, 64 columns at a time, which lie in shared memory as numbers of
// 16 bits; sums are f32. A row's sum goes along the columns in sixteens, whatever rows are beside it.
#pragma once
#include "mma.cuh"
#include "weights.cuh"

constexpr int gemm_warps = 4, gemm_threads = 32 * gemm_warps;
constexpr int tile_rows = 64, tile_outputs = 64, tile_cols = 64;
// From one row of a tile to the next: eight more than it has, so that no two rows of a fragment are in the same bank.
constexpr int tile_step = tile_cols + 8;
// The plain body's: one more, for the same reason.
constexpr int plain_cols = 32, plain_step = plain_cols + 1;

// Packed weights: a warp unpacks 32 outputs of 32 columns, a lane those of one output.
template <class Reader, class T> struct Pairs {
  static __device__ __forceinline__ void stage(const unsigned char *lines, const Packed &weight, int first, int col, T *to) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int output = first + warp / 2 * 32, begin = col + warp % 2 * 32;
    uint4 *row = reinterpret_cast<uint4 *>(to + (warp / 2 * 32 + lane) * tile_step + warp % 2 * 32);
    float values[block_cols];
    const bool there = output < weight.rows && begin < weight.cols;
    if (there) Reader::read(lines + size_t(output / 32) * weight.pair, weight, begin / 32, lane, values);
    UNROLL
    for (int i = 0; i < block_cols; i++)
      if (!there || begin + i >= weight.cols) values[i] = 0;
    UNROLL
    for (int i = 0; i < block_cols; i += 8)
      row[i / 8] = {both<T>(values[i], values[i + 1]), both<T>(values[i + 2], values[i + 3]), both<T>(values[i + 4], values[i + 5]),
                    both<T>(values[i + 6], values[i + 7])};
  }
};

// Rows of plain numbers.
template <class T> struct Plain {
  static __device__ __forceinline__ void stage(const unsigned char *lines, const Packed &weight, int first, int col, T *to) {
    const T *from = reinterpret_cast<const T *>(lines);
    if (weight.cols % 8 == 0) {
      // Eight at a time: rows begin at multiples of sixteen bytes.
      for (int i = threadIdx.x; i < tile_outputs * tile_cols / 8; i += gemm_threads) {
        const int output = first + i / 8, at = col + i % 8 * 8;
        uint4 eight = {0, 0, 0, 0};
        if (output < weight.rows && at < weight.cols) eight = *reinterpret_cast<const uint4 *>(from + size_t(output) * weight.cols + at);
        *reinterpret_cast<uint4 *>(to + i / 8 * tile_step + i % 8 * 8) = eight;
      }
      return;
    }
    for (int i = threadIdx.x; i < tile_outputs * tile_cols; i += gemm_threads) {
      const int output = first + i / tile_cols, at = col + i % tile_cols;
      to[i / tile_cols * tile_step + i % tile_cols] =
          output < weight.rows && at < weight.cols ? from[size_t(output) * weight.cols + at] : from_float<T>(0.0f);
    }
  }
};

// Which column of the activations is the weight's column `i`. `order`: as in `take_f32`, or null.
__device__ __forceinline__ int column(const unsigned *order, int i) { return order ? int(__ldg(order + i)) : i; }

// The rows of activations that a block multiplies, rounded to T; those that there are not, up to a whole fragment, are zero. `order`:
// as in `column`.
template <class T>
__device__ __forceinline__ void stage_rows(const float *x, const unsigned *order, int cols, int rows, int col, T *to) {
  const int whole = (rows + mma_rows - 1) / mma_rows * mma_rows;
  if (!order && cols % 4 == 0) {
    // Four at a time: rows begin at multiples of sixteen bytes.
    for (int i = threadIdx.x; i < whole * tile_cols / 4; i += gemm_threads) {
      const int row = i / (tile_cols / 4), at = i % (tile_cols / 4) * 4;
      float4 four = {0, 0, 0, 0};
      if (row < rows && col + at < cols) four = *reinterpret_cast<const float4 *>(x + size_t(row) * cols + col + at);
      *reinterpret_cast<uint2 *>(to + row * tile_step + at) = {both<T>(four.x, four.y), both<T>(four.z, four.w)};
    }
    return;
  }
  for (int i = threadIdx.x; i < whole * tile_cols / 2; i += gemm_threads) {
    const int row = i / (tile_cols / 2), at = i % (tile_cols / 2) * 2;
    float two[2];
    UNROLL
    for (int k = 0; k < 2; k++) {
      const int from = col + at + k;
      two[k] = row < rows && from < cols ? x[size_t(row) * cols + column(order, from)] : 0.0f;
    }
    *reinterpret_cast<unsigned *>(to + row * tile_step + at) = both<T>(two[0], two[1]);
  }
}

__device__ __forceinline__ void put(float *out, float value, int add) { *out = add ? *out + value : value; }

// On tensor cores: a warp has 16 outputs of all rows. `x`: `[rows, cols]`; `out`: `[rows, n]`, added to what is there if `add`.
template <class Stage, class T>
__device__ __forceinline__ void gemm(const unsigned char *lines, const Packed &weight, const float *x, const unsigned *order, int rows,
                                     int add, float *out) {
  constexpr int fragments = tile_rows / mma_rows, outputs = tile_outputs / gemm_warps / mma_outputs;
  SHARED(uint4, memory, 2 * tile_rows * tile_step / 8);
  T *acts = reinterpret_cast<T *>(memory), *values = acts + tile_rows * tile_step;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, member = lane % 4;
  const int first = blockIdx.x * tile_outputs;
  float sums[fragments][outputs][4];
  UNROLL
  for (int r = 0; r < fragments; r++)
    UNROLL
    for (int o = 0; o < outputs; o++)
      UNROLL
      for (int i = 0; i < 4; i++) sums[r][o][i] = 0;
  for (int col = 0; col < weight.cols; col += tile_cols) {
    stage_rows(x, order, weight.cols, rows, col, acts);
    Stage::stage(lines, weight, first, col, values);
    __syncthreads();
    UNROLL
    for (int k = 0; k < tile_cols; k += mma_cols) {
      if (col + k >= weight.cols) break;
      // Two neighbours at `row` and column `2 * member` of these sixteen, or eight further.
      auto pair = [&](const T *tile, int row, int further) {
        return *reinterpret_cast<const unsigned *>(tile + row * tile_step + k + 2 * member + further);
      };
#ifdef KOMA_BUG_FRAGMENTS
      constexpr int half = 8;
#else
      constexpr int half = 0;
#endif
      unsigned b[outputs][2];
      UNROLL
      for (int o = 0; o < outputs; o++) {
        const int row = (warp * outputs + o) * mma_outputs + group;
        b[o][0] = pair(values, row, half);
        b[o][1] = pair(values, row, 8 - half);
      }
      UNROLL
      for (int r = 0; r < fragments; r++) {
        if (r * mma_rows >= rows) break;
        const int row = r * mma_rows + group;
        const unsigned a[4] = {pair(acts, row, 0), pair(acts, row + 8, 0), pair(acts, row, 8), pair(acts, row + 8, 8)};
        UNROLL
        for (int o = 0; o < outputs; o++) mma<T>(a, b[o], sums[r][o]);
      }
    }
    __syncthreads();
  }
  UNROLL
  for (int r = 0; r < fragments; r++)
    UNROLL
    for (int o = 0; o < outputs; o++)
      UNROLL
      for (int i = 0; i < 4; i++) {
        const int row = r * mma_rows + group + i / 2 * 8;
        const int output = first + (warp * outputs + o) * mma_outputs + 2 * member + i % 2;
        if (row < rows && output < weight.rows) put(out + size_t(row) * weight.rows + output, sums[r][o][i], add);
      }
}

// In plain multiply-adds of factors rounded to T: f32, and what is narrower than a fragment. A thread has 4 outputs of 8 rows.
template <class T>
__device__ __forceinline__ void gemm_plain(const unsigned char *lines, const Packed &weight, const float *x, const unsigned *order,
                                           int rows, int add, float *out) {
  SHARED(float, acts, tile_rows * plain_step);
  SHARED(float, values, tile_outputs * plain_step);
  const T *from = reinterpret_cast<const T *>(lines);
  const int cols = weight.cols, first = blockIdx.x * tile_outputs, mine = threadIdx.x % 16, row = threadIdx.x / 16 * 8;
  float sums[8][4];
  UNROLL
  for (int r = 0; r < 8; r++)
    UNROLL
    for (int o = 0; o < 4; o++) sums[r][o] = 0;
  for (int col = 0; col < cols; col += plain_cols) {
    const int count = min(plain_cols, cols - col);
    for (int i = threadIdx.x; i < tile_rows * plain_cols; i += gemm_threads) {
      const int r = i / plain_cols, k = i % plain_cols, at = col + k;
      const bool there = r < rows && k < count;
      acts[r * plain_step + k] = there ? to_float(from_float<T>(x[size_t(r) * cols + column(order, at)])) : 0.0f;
      values[r * plain_step + k] = first + r < weight.rows && k < count ? to_float(from[size_t(first + r) * cols + at]) : 0.0f;
    }
    __syncthreads();
    for (int k = 0; k < count; k++) {
      float w[4];
      UNROLL
      for (int o = 0; o < 4; o++) w[o] = values[(mine + 16 * o) * plain_step + k];
      UNROLL
      for (int r = 0; r < 8; r++) {
        if (row + r >= rows) break;
        const float v = acts[(row + r) * plain_step + k];
        UNROLL
        for (int o = 0; o < 4; o++) sums[r][o] = fmaf(v, w[o], sums[r][o]);
      }
    }
    __syncthreads();
  }
  UNROLL
  for (int r = 0; r < 8; r++)
    UNROLL
    for (int o = 0; o < 4; o++) {
      const int output = first + mine + 16 * o;
      if (row + r < rows && output < weight.rows) put(out + size_t(row + r) * weight.rows + output, sums[r][o], add);
    }
}
