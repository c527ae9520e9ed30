// The types and functions of CUDA that kernels use, for the host: numbers of 16 bits are stored only, arithmetic is in f32.
#pragma once
#include "emu.h"
#include <algorithm>

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __restrict__ __restrict

#define threadIdx (emu::block->current->thread)
#define blockIdx (emu::block->index)
#define blockDim (emu::block->size)
#define gridDim (emu::block->grid)
#define __syncthreads() emu::wait_at_barrier()
#define __syncwarp() emu::wait_in_warp("syncwarp")
#define __shfl_xor_sync(mask, value, bits) emu::shuffle(mask, value, emu::block->current->lane ^ unsigned(bits), "shfl_xor")
#define __ballot_sync(mask, value) emu::ballot(mask, value)
#define __shfl_sync(mask, value, from) emu::shuffle(mask, value, unsigned(from), "shfl")

struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };

struct __nv_bfloat16 { uint16_t bits; };
struct __half { uint16_t bits; };

template <class To, class From> To koma_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

inline float __uint_as_float(unsigned bits) { return koma_bits<float>(bits); }
inline unsigned __float_as_uint(float value) { return koma_bits<unsigned>(value); }
inline float __bfloat162float(__nv_bfloat16 value) { return __uint_as_float(unsigned(value.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16(float value) {
  unsigned bits = __float_as_uint(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return {uint16_t(bits >> 16 | 0x40)};
  return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline float __half2float(__half value) { return float(koma_bits<_Float16>(value.bits)); }
inline __half __float2half(float value) { return {koma_bits<uint16_t>(_Float16(value))}; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half value) { return value.bits; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits; }

// Rounded once each, whatever the compiler may fuse elsewhere (-ffp-contract=off here).
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline double __dmul_rn(double a, double b) { return a * b; }

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

// Threads run one after another.
template <class T> T atomicAdd(T *at, T value) {
  const T before = *at;
  *at = before + value;
  return before;
}

template <class T> T __ldg(const T *at) { return *at; }
using std::max;
using std::min;
