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

// How numbers are stored. `P` of them are 4 bytes; `widen` gives them as f32, which a scale may be for, and `round` makes one of an
// f32, to nearest even.
struct F32Store {
  using Number = float;
  static constexpr int P = 1;
  static constexpr bool scaled = false;
  static __device__ __forceinline__ void widen(unsigned bits, float *out) { out[0] = __uint_as_float(bits); }
  static __device__ __forceinline__ Number round(float value) { return value; }
};
struct Bf16Store {
  using Number = unsigned short;
  static constexpr int P = 2;
  static constexpr bool scaled = false;
  static __device__ __forceinline__ void widen(unsigned bits, float *out) {
    out[0] = __uint_as_float(bits << 16);
    out[1] = __uint_as_float(bits & 0xffff0000u);
  }
  static __device__ __forceinline__ Number round(float value) { return __bfloat16_as_ushort(__float2bfloat16(value)); }
};
// Beyond 65,504 infinite.
struct F16Store {
  using Number = unsigned short;
  static constexpr int P = 2;
  static constexpr bool scaled = false;
  static __device__ __forceinline__ void widen(unsigned bits, float *out) {
    out[0] = __half2float(__ushort_as_half(static_cast<unsigned short>(bits & 0xffffu)));
    out[1] = __half2float(__ushort_as_half(static_cast<unsigned short>(bits >> 16)));
  }
  static __device__ __forceinline__ Number round(float value) { return __half_as_ushort(__float2half(value)); }
};
// E4M3 of OCP's 8-bit floating point 1.0, by integers, which every architecture has. What is larger than 448 becomes 448; there are
// no infinities, and what is not finite is NaN.
struct Fp8Store {
  using Number = unsigned char;
  static constexpr int P = 4;
  static constexpr bool scaled = false;
  static __device__ __forceinline__ void widen(unsigned bits, float *out) {
    UNROLL
    for (int i = 0; i < 4; i++) {
      const unsigned byte = bits >> (8 * i) & 255, size = byte & 127;
      // Exponent and fraction where an f32 has them, 120 less than they count there; exact, below 2^-6 too.
      const unsigned value = __float_as_uint(__fmul_rn(__uint_as_float(size << 20), 1.329227995784916e36f));
      out[i] = __uint_as_float((size == 127 ? 0x7fc00000u : value) | (byte & 128) << 24);
    }
  }
  static __device__ __forceinline__ Number round(float value) {
    const unsigned bits = __float_as_uint(value), size = bits & 0x7fffffffu;
    unsigned code;
    if (size >= 0x7f800000u) code = 127;
    else if (size >= 0x43e00000u) code = 126;
    // In steps of 2^-9; the eighth is the first number above them.
    else if (size < 0x3c800000u) code = unsigned(rintf(__fmul_rn(__uint_as_float(size), 512.0f)));
    else code = ((size + 0x7ffffu + (size >> 20 & 1)) >> 20) - (120u << 3);
    return static_cast<Number>(code | (bits >> 24 & 128));
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
