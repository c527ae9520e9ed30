// The kernels of `attention_tiles.cuh`, for each kind of cache and what it is multiplied in. `grid`: tasks, key heads times `chunks`.
// As many queries and tokens as 48 KiB of shared memory hold.
#include "attention_tiles.cuh"

#define TILES(name, Store, T, warps, D, tile)                                                                                        \
  extern "C" __global__ void __launch_bounds__(32 * warps, 1) attention_tiles_##name##_d##D(                                         \
      const float *qkv, const Store::Number *cache, const Task *tasks, const unsigned *tables, Shape shape, float *out) {            \
    attention_tiles<Store, T, warps, D, tile>(qkv, cache, tasks, tables, shape, out);                                                \
  }                                                                                                                                  \
  EXPORT(attention_tiles_##name##_d##D)

#define EACH_WIDTH(name, Store, T)    \
  TILES(name, Store, T, 4, 64, 64)    \
  TILES(name, Store, T, 4, 128, 32)   \
  TILES(name, Store, T, 3, 256, 16)

EACH_WIDTH(bf16, Bf16Store, __nv_bfloat16)
EACH_WIDTH(f16, F16Store, __half)
EACH_WIDTH(fp8_bf16, Fp8Store, __nv_bfloat16)
EACH_WIDTH(fp8_f16, Fp8Store, __half)
EACH_WIDTH(int8_bf16, Int8Store, __nv_bfloat16)
EACH_WIDTH(int8_f16, Int8Store, __half)
