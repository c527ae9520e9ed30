// A product of fragments on tensor cores: `c[16][8] += a[16][16] * b[16][8]`, f32 sums of factors of 16 bits. The lanes of a warp
// hold the fragments as "Matrix fragments for mma.m16n8k16" of the PTX ISA manual says, and here `group = lane / 4`,
// `member = lane % 4`:
//   a  two columns a register: rows `group`, `group + 8`, `group`, `group + 8` of columns `2 * member + {0, 1}`, twice, then plus 8
//   b  two rows a register: rows `2 * member + {0, 1}`, then plus 8, of column `group`
//   c  rows `group`, `group`, `group + 8`, `group + 8` of columns `2 * member + {0, 1}`, twice
#pragma once
#include "compat.cuh"

constexpr int mma_rows = 16, mma_outputs = 8, mma_cols = 16;

template <class T> __device__ __forceinline__ unsigned bits_of(T value);
template <> __device__ __forceinline__ unsigned bits_of(__half value) { return __half_as_ushort(value); }
template <> __device__ __forceinline__ unsigned bits_of(__nv_bfloat16 value) { return __bfloat16_as_ushort(value); }

// Two values as a register of a fragment has them, the first in the lower half.
template <class T> __device__ __forceinline__ unsigned both(float first, float second) {
  return bits_of(from_float<T>(first)) | bits_of(from_float<T>(second)) << 16;
}

template <class T> __device__ __forceinline__ void mma(const unsigned (&a)[4], const unsigned (&b)[2], float (&c)[4]);

#ifdef __CUDACC__
template <> __device__ __forceinline__ void mma<__nv_bfloat16>(const unsigned (&a)[4], const unsigned (&b)[2], float (&c)[4]) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  // There is no bf16: the launcher asks for f16.
  __trap();
#endif
}

template <> __device__ __forceinline__ void mma<__half>(const unsigned (&a)[4], const unsigned (&b)[2], float (&c)[4]) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  // Eight columns at a time: the first half of each fragment, then the second.
  UNROLL
  for (int half = 0; half < 2; half++)
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
#endif
}
#else
// Each lane gives its fragments and computes its own sums from those of the others, exactly and rounded once.
template <class T> void mma(const unsigned (&a)[4], const unsigned (&b)[2], float (&c)[4]) {
  const unsigned mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const emu::Fragments all = emu::exchange(mine, "mma");
  auto half = [](unsigned both, int which) {
    T value;
    value.bits = uint16_t(both >> 16 * which);
    return double(to_float(value));
  };
  const int group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
  // Rows `group` and `group + 8` of a, columns `2 * member` and the next of b.
  double rows[2][mma_cols], outputs[2][mma_cols];
  for (int i = 0; i < 2; i++)
    for (int col = 0; col < mma_cols; col++) {
      rows[i][col] = half(all.of(group * 4 + col % 8 / 2)[i + col / 8 * 2], col % 2);
      outputs[i][col] = half(all.of((2 * member + i) * 4 + col % 8 / 2)[4 + col / 8], col % 2);
    }
  for (int i = 0; i < 4; i++) {
    double sum = c[i];
    for (int col = 0; col < mma_cols; col++) sum += rows[i / 2][col] * outputs[i % 2][col];
    c[i] = float(sum);
  }
}
#endif
