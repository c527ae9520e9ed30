// What differs between nvcc and the host emulation. Everything else in this folder is the same source for both.
//
// No raw `extern __shared__`, no inline PTX without a plain form beside it, full warps wherever lanes meet.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
// `name`: `T[count]` in shared memory. In a kernel all threads name their arrays in the same order.
#define SHARED(T, name, count) __shared__ T name[count]
// `name`: `T[]`, the dynamic shared memory of the launch.
#define DYNAMIC_SHARED(T, name)                                \
  extern __shared__ __align__(16) unsigned char koma_shared[]; \
  T *name = reinterpret_cast<T *>(koma_shared)
#define UNROLL _Pragma("unroll")
// The name under which the driver finds a kernel: nvcc needs none beside `extern "C"`.
#define EXPORT(name)
#else
#include "../emu/types.h"
#include "../emu/registry.h"
#define SHARED(T, name, count) T *name = emu::shared<T>(count)
#define DYNAMIC_SHARED(T, name) T *name = emu::dynamic_shared<T>()
#define UNROLL
#define EXPORT(name) EXPORT_AS(name)
#define EXPORT_AS(name) static emu::Export koma_export_##name(#name, name);
#endif

constexpr unsigned full_warp = 0xffffffffu;

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }

template <class T> __device__ __forceinline__ T from_float(float value);
template <> __device__ __forceinline__ float from_float<float>(float value) { return value; }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) { return __float2bfloat16(value); }
template <> __device__ __forceinline__ __half from_float<__half>(float value) { return __float2half(value); }

// A pointer to the device's own memory, where the compiler cannot know that: one that was itself read from memory.
template <class T> __device__ __forceinline__ T *global(T *pointer) {
#ifdef __CUDACC__
  __builtin_assume(__isGlobal(pointer));
#endif
  return pointer;
}

// Sums and maxima of a warp, the same bits in every lane: a butterfly adds the same pairs in each.
__device__ __forceinline__ float warp_sum(float value) {
  UNROLL
  for (int bits = 16; bits > 0; bits /= 2) value += __shfl_xor_sync(full_warp, value, bits);
  return value;
}

__device__ __forceinline__ float warp_max(float value) {
  UNROLL
  for (int bits = 16; bits > 0; bits /= 2) value = fmaxf(value, __shfl_xor_sync(full_warp, value, bits));
  return value;
}

// The sum over a block of `warps` warps, in the order of the warps; `parts`: `[warps]`, shared, free again after the call.
__device__ __forceinline__ float block_sum(float value, float *parts, int warps) {
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
#ifndef KOMA_BUG_MISSING_BARRIER
  __syncthreads();
#endif
  float sum = 0;
  for (int i = 0; i < warps; i++) sum += parts[i];
  __syncthreads();
  return sum;
}
