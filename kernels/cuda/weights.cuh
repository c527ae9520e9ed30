// Packed weights as `cpu::pack`, `cpu::grouped` and `cpu::int8` lay them out: 32 rows side by side, which are the 32 lanes of a
// warp here. A reader gives the values of 32 columns of a lane's row, bit-equal to `PackedWeight::dequantize_row`.
#pragma once
#include "compat.cuh"

constexpr int block_cols = 32;

// What the launcher says of a weight beside its bytes.
struct Packed {
  long long pair;       // bytes of 32 rows
  int rows, cols;
  int group;            // columns of a group (grouped formats), a multiple of 32
  int scale, zeros;     // how its scale is stored (0 f16, 1 bf16, 2 f32), and whether there is a zero
};

// Rows that go through one of several weights, at most a tile of them.
struct Part {
  int weight, first, rows;
};

// One of them: its bytes and the order of its columns or null, as in `take_f32`. Those that lie in another way have no bytes here.
struct One {
  const unsigned char *lines;
  const unsigned *order;
};

// What a block multiplies: the rows of a tile, of one weight or of the one that its part names.
struct Work {
  One weight;
  int first, rows;
};

__device__ __forceinline__ Work work_of(const unsigned char *lines, const unsigned *order, const Part *parts, int rows, int tile) {
  const int first = blockIdx.y * tile;
  Work work = {{lines, order}, first, min(tile, rows - first)};
  if (parts) {
    const Part part = parts[blockIdx.y];
    work.weight = reinterpret_cast<const One *>(lines)[part.weight];
    work.first = part.first;
    work.rows = work.weight.lines ? part.rows : 0;
  }
  return work;
}

__device__ __forceinline__ float half_at(const unsigned char *at) {
  return __half2float(__ushort_as_half(*reinterpret_cast<const unsigned short *>(at)));
}
__device__ __forceinline__ float bfloat_at(const unsigned char *at) {
  return __uint_as_float(unsigned(*reinterpret_cast<const unsigned short *>(at)) << 16);
}
__device__ __forceinline__ float float_at(const unsigned char *at) { return *reinterpret_cast<const float *>(at); }

// The `count` dwords of a row's codes in a block at `at`: tile 0, then tile 1, each dword by dword for 16 rows.
template <int count> __device__ __forceinline__ void dwords(const unsigned char *at, int lane, unsigned *out) {
  const unsigned *from = reinterpret_cast<const unsigned *>(at) + (lane / 16) * count * 16 + lane % 16;
  UNROLL
  for (int i = 0; i < count; i++) out[i] = from[i * 16];
}

// Bits `from..to` of code `i`, out of their plane (`cpu::codes`), which begins at `plane`.
template <int from, int to> __device__ __forceinline__ unsigned field(const unsigned *plane, int i) {
  constexpr int bits = to - from, bytes = 4 * bits;
  const int byte = i % bytes, shift = byte % 4 * 8 + i / bytes * bits;
  return (plane[byte / 4] >> shift & ((1u << bits) - 1)) << from;
}

enum Head { head_f16, head_bf16, head_f32 };
enum Subs { no_subs, scales_of_halves, scale_and_min, nibbles };
enum Value { minus, with_min, is_signed, from_table };

// Of table 0, {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113} (IQ4_NL), or 1, the values of e2m1
// doubled, {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}: bytes of two constants, so that no table lies in memory.
template <int table> __device__ __forceinline__ float table_value(unsigned code) {
  constexpr unsigned long long low = table == 0 ? 0xf6eaddcfbfad9881ull : 0x0c08060403020100ull;
  constexpr unsigned long long high = table == 0 ? 0x7159453526190d01ull : 0xf4f8fafcfdfeff00ull;
  return float(static_cast<signed char>((code & 8 ? high : low) >> (code & 7) * 8));
}

// The block formats: a row of `cpu::codes`' table each. `what`: what is taken off a code, or the number of the table.
template <int blocks, Head head, Subs subs, int bits, Value value, int what> struct Blocks {
  static constexpr int head_bytes = head == head_f32 ? 4 : 2, heads = value == with_min ? 2 : 1;
  static constexpr int sub_bytes = subs == no_subs ? 0 : 2;
  static constexpr int one = 32 * (sub_bytes + 4 * bits), unit = 32 * head_bytes * heads + blocks * one;
  static constexpr int low_bits = bits == 8 ? 8 : bits < 4 ? 2 : 4;

  static __device__ __forceinline__ float head_at(const unsigned char *at) {
    return head == head_f16 ? half_at(at) : head == head_bf16 ? bfloat_at(at) : float_at(at);
  }

  // `pair`: the 32 rows; `index`: which 32 columns; `out`: `[32]`.
  static __device__ __forceinline__ void read(const unsigned char *pair, const Packed &, int index, int lane, float *out) {
    const unsigned char *unit_at = pair + size_t(index / blocks) * unit;
    const float scale = head_at(unit_at + lane * head_bytes);
    const float least = heads == 2 ? head_at(unit_at + 32 * head_bytes + lane * head_bytes) : 0.0f;
    const unsigned char *block = unit_at + 32 * head_bytes * heads + index % blocks * one;
    float scales[2] = {scale, scale}, minimums[2] = {least, least};
    if (subs != no_subs) {
      const unsigned first = block[lane], second = block[32 + lane];
      if (subs == scales_of_halves) {
        scales[0] = __fmul_rn(scale, float(int(static_cast<signed char>(first))));
        scales[1] = __fmul_rn(scale, float(int(static_cast<signed char>(second))));
      } else if (subs == scale_and_min) {
        scales[0] = scales[1] = __fmul_rn(scale, float(first));
        minimums[0] = minimums[1] = -__fmul_rn(least, float(second));
      } else {
        scales[0] = __fmul_rn(scale, float(first & 15));
        scales[1] = __fmul_rn(scale, float(second & 15));
        minimums[0] = -__fmul_rn(least, float(first >> 4));
        minimums[1] = -__fmul_rn(least, float(second >> 4));
      }
    }
    unsigned codes[bits];
    dwords<bits>(block + 32 * sub_bytes, lane, codes);
    UNROLL
    for (int i = 0; i < 32; i++) {
      unsigned code = field<0, low_bits>(codes, i);
      if constexpr (low_bits < bits) code |= field<low_bits, bits>(codes + low_bits, i);
      const float scale = scales[i / 16];
      if (value == minus) out[i] = __fmul_rn(float(int(code) - what), scale);
      else if (value == with_min) out[i] = __fadd_rn(__fmul_rn(float(code), scale), minimums[i / 16]);
      else if (value == is_signed) out[i] = __fmul_rn(float(int(code) - 128), scale);
      else out[i] = __fmul_rn(table_value<what>(code), scale);
    }
  }
};

// INT8: a scale for each row, then a dword for each 4 columns.
struct RowInt8 {
  static __device__ __forceinline__ void read(const unsigned char *pair, const Packed &weight, int index, int lane, float *out) {
    const float scale = float_at(pair + lane * 4);
    UNROLL
    for (int i = 0; i < 32; i += 4) {
      if (index * 32 + i >= weight.cols) {
        UNROLL
        for (int k = 0; k < 4; k++) out[i + k] = 0;
        continue;
      }
      const unsigned codes = reinterpret_cast<const unsigned *>(pair + 256 + size_t(index * 32 + i) / 4 * 128)[lane];
      UNROLL
      for (int k = 0; k < 4; k++) out[i + k] = __fmul_rn(scale, float(int(codes >> (8 * k) & 255) - 128));
    }
  }
};

enum Code { int4_code, int8_code, fp8_code };

// Codes that share a scale, and perhaps a zero, by the group of columns.
template <Code code> struct Grouped {
  static __device__ __forceinline__ void read(const unsigned char *pair, const Packed &weight, int index, int lane, float *out) {
    constexpr int block_bytes = code == int4_code ? 512 : 1024;
    const int scale_bytes = weight.scale == 2 ? 128 : 64, head = scale_bytes + (weight.zeros ? 64 : 0);
    const int group = index * 32 / weight.group, at = index - group * (weight.group / 32);
    const unsigned char *start = pair + size_t(group) * (head + weight.group / 32 * block_bytes);
    const float scale = weight.scale == 0   ? half_at(start + lane * 2)
                        : weight.scale == 1 ? bfloat_at(start + lane * 2)
                                            : float_at(start + lane * 4);
    const float zero = weight.zeros ? bfloat_at(start + scale_bytes + lane * 2) : 0.0f;
    const unsigned char *block = start + head + at * block_bytes;
    if (code == fp8_code) {
      UNROLL
      for (int i = 0; i < 32; i++) {
        // The bits of an f16 whose exponent is 8 too small.
        const unsigned bits = block[i * 32 + lane];
        out[i] = __fmul_rn(scale, 256.0f * __half2float(__ushort_as_half((bits & 0x80) << 8 | (bits & 0x7f) << 7)));
      }
      return;
    }
    constexpr int count = code == int4_code ? 4 : 8, bits = code == int4_code ? 4 : 8;
    unsigned codes[count];
    dwords<count>(block, lane, codes);
    UNROLL
    for (int i = 0; i < 32; i++) {
      const int biased = int(field<0, bits>(codes, i)) - (code == int4_code ? 8 : 128);
      out[i] = __fmul_rn(scale, float(biased) - zero);
    }
  }
};

// Plain values, on their way to rows of their own.
struct PlainF32 {
  static __device__ __forceinline__ void read(const unsigned char *pair, const Packed &weight, int index, int lane, float *out) {
    for (int i = 0; i < 32; i++)
      out[i] = index * 32 + i < weight.cols ? reinterpret_cast<const float *>(pair + size_t(index * 32 + i) * 128)[lane] : 0.0f;
  }
};
struct PlainF16 {
  static __device__ __forceinline__ void read(const unsigned char *pair, const Packed &weight, int index, int lane, float *out) {
    for (int i = 0; i < 32; i++) out[i] = index * 32 + i < weight.cols ? half_at(pair + size_t(index * 32 + i) * 64 + lane * 2) : 0.0f;
  }
};
struct PlainBf16 {
  static __device__ __forceinline__ void read(const unsigned char *pair, const Packed &weight, int index, int lane, float *out) {
    for (int i = 0; i < 32; i++)
      out[i] = index * 32 + i < weight.cols ? bfloat_at(pair + size_t(index * 32 + i) / 2 * 128 + lane * 4 + i % 2 * 2) : 0.0f;
  }
};

using Q8_0 = Blocks<1, head_f16, no_subs, 8, is_signed, 0>;
using Q4_0 = Blocks<1, head_f16, no_subs, 4, minus, 8>;
using Q4_1 = Blocks<1, head_f16, no_subs, 4, with_min, 0>;
using Q5_0 = Blocks<1, head_f16, no_subs, 5, minus, 16>;
using Q5_1 = Blocks<1, head_f16, no_subs, 5, with_min, 0>;
using Q2K = Blocks<8, head_f16, nibbles, 2, with_min, 0>;
using Q3K = Blocks<8, head_f16, scales_of_halves, 3, minus, 4>;
using Q4K = Blocks<8, head_f16, scale_and_min, 4, with_min, 0>;
using Q5K = Blocks<8, head_f16, scale_and_min, 5, with_min, 0>;
using Q6K = Blocks<8, head_f16, scales_of_halves, 6, minus, 32>;
using Q8K = Blocks<8, head_f32, no_subs, 8, is_signed, 0>;
using Iq4Nl = Blocks<1, head_f16, no_subs, 4, from_table, 0>;
using Mxfp4 = Blocks<1, head_bf16, no_subs, 4, from_table, 1>;
