// Where keys and values lie: the layout of `cache::layer`, which both the CPU's and this attention read. Sixteen tokens of a key's
// value lie side by side, as do the values of a token, so that the lanes of a warp read whole lines in both products.
#pragma once
#include "compat.cuh"

// As `cache::layer::Places`, in numbers of the store (bytes for int8), of which `P` lie together.
struct Places {
  long long block, layer, keys, scales, head;
  int block_size, k, v;

  __device__ __forceinline__ long long start(unsigned block_id, int at_head) const {
    return block_id * block + layer + at_head * head;
  }
  // In a block: the key of the token at `offset`, and from there to its number `d`.
  template <int P> __device__ __forceinline__ long long key(int offset) const { return (long long)(offset / 16 * 16) * k + offset % 16 * P; }
  template <int P> __device__ __forceinline__ int key_step(int d) const { return d / P * (16 * P) + d % P; }
  // Number `d` of the value of that token.
  template <int P> __device__ __forceinline__ long long value(int offset, int d) const {
    return keys + (long long)(offset / P * P) * v + d * P + offset % P;
  }
  // The scale of its key, or of its value.
  __device__ __forceinline__ long long scale(int offset, int of_value) const {
    return scales + offset / 16 * (16 * 8) + (of_value * 16 + offset % 16) * 4;
  }
};

// How numbers are stored. `P` of them are 4 bytes; `widen` gives them as f32, which a scale may be for.
struct F32Store {
  using Number = float;
  static constexpr int P = 1;
  static constexpr bool scaled = false;
  static __device__ __forceinline__ void widen(unsigned bits, float *out) { out[0] = __uint_as_float(bits); }
};
struct Bf16Store {
  using Number = unsigned short;
  static constexpr int P = 2;
  static constexpr bool scaled = false;
  static __device__ __forceinline__ void widen(unsigned bits, float *out) {
    out[0] = __uint_as_float(bits << 16);
    out[1] = __uint_as_float(bits & 0xffff0000u);
  }
};
struct Int8Store {
  using Number = unsigned char;
  static constexpr int P = 4;
  static constexpr bool scaled = true;
  static __device__ __forceinline__ void widen(unsigned bits, float *out) {
    UNROLL
    for (int i = 0; i < 4; i++) out[i] = float(int(bits >> (8 * i) & 255) - 128);
  }
};
