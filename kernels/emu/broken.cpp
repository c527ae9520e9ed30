// Kernels with a fault, under other names: what the tests' controls must notice.
#define KOMA_BUG_MISSING_BARRIER
#define rms rms_without_barrier
#define layer layer_without_barrier
#define rms_norm rms_norm_without_barrier
#define rms_norm_heads rms_norm_heads_without_barrier
#define layer_norm layer_norm_without_barrier
#define residual_rms_norm residual_rms_norm_without_barrier
#define residual_layer_norm residual_layer_norm_without_barrier
#include "../cuda/norm.cu"

// The halves of a fragment changed places.
#define KOMA_BUG_FRAGMENTS
#include "../cuda/mma.cuh"
#include "../cuda/weights.cuh"
namespace broken {
#include "../cuda/gemm.cuh"
}
extern "C" void gemm_rows_bf16_swapped(const unsigned char *lines, Packed weight, const Part *, const float *x, const unsigned *order,
                                       int rows, int add, float *out) {
  broken::gemm<broken::Plain<__nv_bfloat16>, __nv_bfloat16>(lines, weight, x, order, rows, add, out);
}
EXPORT(gemm_rows_bf16_swapped)

// Tiles of attention that are read before they are there; the first fault of this file is still in.
#include "../cuda/attention.cuh"
namespace broken {
#include "../cuda/attention_tiles.cuh"
}
extern "C" void attention_tiles_bf16_d64_without_barrier(const float *qkv, const Bf16Store::Number *cache, const Task *tasks,
                                                         const unsigned *tables, Shape shape, float *out) {
  broken::attention_tiles<Bf16Store, __nv_bfloat16, 4, 64, 64>(qkv, cache, tasks, tables, shape, out);
}
EXPORT(attention_tiles_bf16_d64_without_barrier)
