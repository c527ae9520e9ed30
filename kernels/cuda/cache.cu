// The write of keys and values into their slots.
#include "cache.cuh"

constexpr int threads = 128, warps = threads / 32;

// One head of one token, by one warp: `from`: `[dim]`; `at(d)` is the place of number `d`.
template <class Store, class At>
__device__ __forceinline__ void put(typename Store::Number *store, const float *from, int dim, At at, long long scale_at) {
  if constexpr (Store::scaled) {
    // In 127 steps of the largest number, plus 128. A head that holds a NaN or an infinity gets the scale NaN.
    float most = 0, bad = 0;
    for (int d = threadIdx.x % 32; d < dim; d += 32) {
      most = fmaxf(most, fabsf(from[d]));
      if (!(fabsf(from[d]) <= 3.4028234e38f)) bad = 1;
    }
    most = warp_max(most);
    bad = warp_max(bad);
    // Below this the factor would be infinite: such a head counts as 0.
    const bool none = !(most > 1e-30f);
    const float factor = none || bad > 0 ? 0.0f : __fdiv_rn(127.0f, most);
    for (int d = threadIdx.x % 32; d < dim; d += 32) {
      const float steps = bad > 0 ? 0.0f : rintf(__fmul_rn(from[d], factor));
      store[at(d)] = static_cast<unsigned char>(int(steps) + 128);
    }
    const float scale = bad > 0 ? __uint_as_float(0x7fc00000u) : none ? 0.0f : __fdiv_rn(most, 127.0f);
    if (threadIdx.x % 32 == 0) *reinterpret_cast<float *>(store + scale_at) = scale;
  } else {
    for (int d = threadIdx.x % 32; d < dim; d += 32) store[at(d)] = Store::round(from[d]);
  }
}

// Row `i` of `qkv` goes to slot `slots[i]`; one block for each row, one warp for each key head in turn.
// `qkv`: `[tokens, q_heads * k_dim + kv_heads * (k_dim + v_dim)]`.
template <class Store>
__device__ __forceinline__ void write_kv(const float *qkv, const unsigned *slots, Places places, int q_heads, int kv_heads, int k_dim,
                                         int v_dim, typename Store::Number *store) {
  const size_t width = size_t(q_heads + kv_heads) * k_dim + size_t(kv_heads) * v_dim;
  const float *row = qkv + blockIdx.x * width + size_t(q_heads) * k_dim;
  const unsigned slot = slots[blockIdx.x];
  const int offset = slot % places.block_size;
  constexpr int P = Store::P;
  for (int head = threadIdx.x / 32; head < kv_heads; head += warps) {
    typename Store::Number *to = store + places.start(slot / places.block_size, head);
    put<Store>(to, row + size_t(head) * k_dim, k_dim, [&](int d) { return places.key<P>(offset) + places.key_step<P>(d); }, places.scale(offset, 0));
    put<Store>(to, row + size_t(kv_heads) * k_dim + size_t(head) * v_dim, v_dim, [&](int d) { return places.value<P>(offset, d); },
        places.scale(offset, 1));
  }
}

#define WRITE(name, Store)                                                                                                      \
  extern "C" __global__ void __launch_bounds__(threads) name(const float *qkv, const unsigned *slots, Places places, int q_heads, \
                                                             int kv_heads, int k_dim, int v_dim, Store::Number *store) {          \
    write_kv<Store>(qkv, slots, places, q_heads, kv_heads, k_dim, v_dim, store);                                                  \
  }                                                                                                                               \
  EXPORT(name)

WRITE(write_kv_f32, F32Store)
WRITE(write_kv_bf16, Bf16Store)
WRITE(write_kv_f16, F16Store)
WRITE(write_kv_fp8, Fp8Store)
WRITE(write_kv_int8, Int8Store)
