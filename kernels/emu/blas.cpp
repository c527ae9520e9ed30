// A stand-in of `libcublasLt`: the products that Koma asks for, summed in f64 in the order of the columns and rounded once.
// They are work of the stream that they are asked on.
#include "types.h"
#include <memory>

#define API extern "C" __attribute__((visibility("default")))

namespace {

using Status = int;
enum : Status { success = 0, invalid_value = 7, execution_failed = 13, not_supported = 15 };
enum Type { f32 = 0, f16 = 2, bf16 = 14, e4m3 = 28 };

struct Layout {
  int type;
  unsigned long long rows, cols;
  long long ld;
};
struct Desc {
  int compute, scale_type, transpose[2];
  const float *scales[2];
};

float read(const void *at, size_t i, int type) {
  switch (type) {
    case f16: return __half2float(static_cast<const __half *>(at)[i]);
    case bf16: return __bfloat162float(static_cast<const __nv_bfloat16 *>(at)[i]);
    case e4m3: {
      unsigned bits = static_cast<const unsigned char *>(at)[i];
      if ((bits & 0x7f) == 0x7f) return NAN;
      return 256 * __half2float(__ushort_as_half((bits & 0x80) << 8 | (bits & 0x7f) << 7));
    }
    default: return static_cast<const float *>(at)[i];
  }
}

void write(void *at, size_t i, int type, float value) {
  if (type == f16) static_cast<__half *>(at)[i] = __float2half(value);
  else if (type == bf16) static_cast<__nv_bfloat16 *>(at)[i] = __float2bfloat16(value);
  else static_cast<float *>(at)[i] = value;
}

// A product, as it was when it was asked for.
struct Product {
  Desc op;
  float one, kept;
  const void *a, *b, *c;
  void *d;
  Layout A, B, C, D;
  size_t m, n, k;
};

void multiply(void *what) {
  const Product &p = *static_cast<Product *>(what);
  const Desc &op = p.op;
  const double scale = (op.scales[0] ? *op.scales[0] : 1.0) * (op.scales[1] ? *op.scales[1] : 1.0);
  for (size_t j = 0; j < p.n; j++)
    for (size_t i = 0; i < p.m; i++) {
      double sum = 0;
      for (size_t at = 0; at < p.k; at++)
        sum += double(read(p.a, op.transpose[0] ? at + i * p.A.ld : i + at * p.A.ld, p.A.type)) *
               read(p.b, op.transpose[1] ? j + at * p.B.ld : at + j * p.B.ld, p.B.type);
      const double old = p.kept != 0 ? p.kept * double(read(p.c, i + j * p.C.ld, p.C.type)) : 0;
      write(p.d, i + j * p.D.ld, p.D.type, float(p.one * scale * sum + old));
    }
}

bool known(int type) { return type == f32 || type == f16 || type == bf16 || type == e4m3; }

}  // namespace

// Of the stand-in of the driver.
extern "C" int koma_emu_ask(void *stream, void (*run)(void *), void *what, void (*drop)(void *));

API Status cublasLtCreate(void **to) { return *to = reinterpret_cast<void *>(1), success; }
API Status cublasLtDestroy(void *) { return success; }
API Status cublasLtMatmulDescCreate(void **to, int compute, int scale) {
  // CUBLAS_COMPUTE_32F, scaled by f32.
  if (compute != 68 || scale != f32) return not_supported;
  return *to = new Desc{compute, scale, {0, 0}, {nullptr, nullptr}}, success;
}
API Status cublasLtMatmulDescDestroy(void *desc) { return delete static_cast<Desc *>(desc), success; }
API Status cublasLtMatmulDescSetAttribute(void *desc, int attribute, const void *value, size_t size) {
  Desc &d = *static_cast<Desc *>(desc);
  switch (attribute) {
    case 3:  // TRANSA
    case 4:  // TRANSB
      if (size != 4) return invalid_value;
      return memcpy(&d.transpose[attribute - 3], value, 4), success;
    case 17:  // A_SCALE_POINTER
    case 18:  // B_SCALE_POINTER
      if (size != 8) return invalid_value;
      return memcpy(&d.scales[attribute - 17], value, 8), success;
    default: return not_supported;
  }
}
API Status cublasLtMatrixLayoutCreate(void **to, int type, unsigned long long rows, unsigned long long cols, long long ld) {
  if (!known(type) || ld < (long long)rows) return invalid_value;
  return *to = new Layout{type, rows, cols, ld}, success;
}
API Status cublasLtMatrixLayoutDestroy(void *layout) { return delete static_cast<Layout *>(layout), success; }
API Status cublasLtMatmulPreferenceCreate(void **to) { return *to = reinterpret_cast<void *>(1), success; }
API Status cublasLtMatmulPreferenceDestroy(void *) { return success; }
API Status cublasLtMatmulPreferenceSetAttribute(void *, int, const void *, size_t) { return success; }
API Status cublasLtMatmulAlgoGetHeuristic(void *, void *, void *, void *, void *, void *, void *, int wanted, void *results, int *count) {
  // 64 bytes of algorithm, the workspace, the state; 96 with what is reserved.
  if (wanted < 1) return invalid_value;
  memset(results, 0, 96);
  *static_cast<unsigned char *>(results) = 42;
  return *count = 1, success;
}
API Status cublasLtMatmul(void *, void *desc, const void *alpha, const void *a, void *a_layout, const void *b, void *b_layout,
                          const void *beta, const void *c, void *c_layout, void *d, void *d_layout, const void *algorithm, void *, size_t,
                          void *stream) {
  const Desc &op = *static_cast<Desc *>(desc);
  const Layout &A = *static_cast<Layout *>(a_layout), &B = *static_cast<Layout *>(b_layout);
  const Layout &C = *static_cast<Layout *>(c_layout), &D = *static_cast<Layout *>(d_layout);
  if (!algorithm || *static_cast<const unsigned char *>(algorithm) != 42) return not_supported;
  const size_t m = op.transpose[0] ? A.cols : A.rows, k = op.transpose[0] ? A.rows : A.cols;
  const size_t n = op.transpose[1] ? B.rows : B.cols, k_of_b = op.transpose[1] ? B.cols : B.rows;
  if (k != k_of_b || D.rows != m || D.cols != n || C.rows != m || C.cols != n || A.type != B.type) return invalid_value;
  // What the library takes of e4m3 only: both factors as rows of k, in sixteens.
  if (A.type == e4m3 && (!op.transpose[0] || op.transpose[1] || k % 16 || m % 16)) return not_supported;
  auto *product = new Product{op, *static_cast<const float *>(alpha), *static_cast<const float *>(beta), a, b, c, d, A, B, C, D, m, n, k};
  return koma_emu_ask(stream, multiply, product, [](void *what) { delete static_cast<Product *>(what); }) ? execution_failed : success;
}
