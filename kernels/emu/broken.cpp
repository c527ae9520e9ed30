// Kernels with a fault, under other names: what the tests' controls must notice.
#define KOMA_BUG_MISSING_BARRIER
#define rms_norm rms_norm_without_barrier
#define rms_norm_heads rms_norm_heads_without_barrier
#define layer_norm layer_norm_without_barrier
#include "../cuda/norm.cu"
