// cuBLAS and cuBLASLt: column-major multiplication with plain loops.
#include <algorithm>
#include <cmath>
#include <map>
#include "state.h"

using namespace standin;

namespace {

enum { SUCCESS = 0, NOT_READY_YET = 1, INVALID = 7, UNSUPPORTED = 15 };

auto& lock_ = *new std::mutex;
auto& handles = *new std::map<u64, u64>;  // a cuBLAS handle's stream

struct Matrix {
  u64 data;
  int type;
  i64 ld, stride;
};
using Epilogue = std::function<double(double, i64)>;
struct Product {
  bool ta, tb;
  i64 m, n, k, batch;
  double alpha, beta;
  Matrix a, b, c, d;
  Epilogue epilogue;
};

// What real cuBLAS multiplies; other combinations it refuses.
bool supported(int compute, int a, int b, int c) {
  if (a != b) return false;
  switch (compute) {
    case 68: case 74: case 75: case 77:
      return (a == R_32F && c == R_32F) || ((a == R_16F || a == R_16BF) && (c == a || c == R_32F)) || (a == R_8I && c == R_32F);
    case 64: return a == R_16F && c == R_16F;
    case 70: return a == R_64F && c == R_64F;
    case 72: return a == R_8I && c == R_32I;
    default: return false;
  }
}

double scalar(const void* value, int compute) {
  return load(value, 0, compute == 64 ? R_16F : compute == 70 ? R_64F : compute == 72 ? R_32I : R_32F);
}

bool covers(const Matrix& x, i64 rows, i64 columns, i64 batch) {
  int bytes = size_of(x.type);
  if (rows == 0 || columns == 0) return true;
  if (x.data == 0 || x.ld < rows || x.data % u64(bytes) != 0) return false;
  i64 elements = (batch - 1) * x.stride + (columns - 1) * x.ld + rows;
  return on_device(x.data, u64(elements * bytes));
}

// A matrix has a leading dimension also where it has no elements: the real library looks at that before at anything else.
bool has_leading(const Matrix& x, i64 rows) { return x.ld >= std::max<i64>(1, rows); }

int multiply(u64 stream, Product p) {
  if (!has_leading(p.a, p.ta ? p.k : p.m) || !has_leading(p.b, p.tb ? p.n : p.k) || !has_leading(p.c, p.m) || !has_leading(p.d, p.m)) {
    return complain(INVALID, "a leading dimension under max(1, rows)");
  }
  if (p.m == 0 || p.n == 0 || p.batch == 0) return SUCCESS;
  auto good = [=] {
    return covers(p.a, p.ta ? p.k : p.m, p.ta ? p.m : p.k, p.batch) && covers(p.b, p.tb ? p.n : p.k, p.tb ? p.k : p.n, p.batch) &&
           covers(p.d, p.m, p.n, p.batch) && (p.beta == 0 || covers(p.c, p.m, p.n, p.batch));
  };
  if (!good()) return complain(INVALID, "a matrix leaves its allocation, or its leading dimension is too small");
  int status = enqueue(stream, [=] {
    if (idle()) return int(OK);
    if (!good()) return complain(ILLEGAL_ADDRESS, "a matrix was freed before its multiplication");
    auto at = [](const Matrix& x) { return reinterpret_cast<void*>(x.data); };
    std::vector<double> a(size_t(p.m * p.k)), b(size_t(p.k * p.n));
    for (i64 i = 0; i < p.batch; i++) {
      for (i64 r = 0; r < p.m; r++) for (i64 q = 0; q < p.k; q++) {
        a[size_t(r * p.k + q)] = load(at(p.a), i * p.a.stride + (p.ta ? r * p.a.ld + q : q * p.a.ld + r), p.a.type);
      }
      for (i64 c = 0; c < p.n; c++) for (i64 q = 0; q < p.k; q++) {
        b[size_t(c * p.k + q)] = load(at(p.b), i * p.b.stride + (p.tb ? q * p.b.ld + c : c * p.b.ld + q), p.b.type);
      }
      for (i64 c = 0; c < p.n; c++) for (i64 r = 0; r < p.m; r++) {
        double sum = 0;
        const double *x = &a[size_t(r * p.k)], *y = &b[size_t(c * p.k)];
        for (i64 q = 0; q < p.k; q++) sum += x[q] * y[q];
        sum *= p.alpha;
        if (p.beta != 0) sum += p.beta * load(at(p.c), i * p.c.stride + c * p.c.ld + r, p.c.type);
        store(at(p.d), i * p.d.stride + c * p.d.ld + r, p.d.type, p.epilogue ? p.epilogue(sum, r) : sum);
      }
    }
    return int(OK);
  });
  return status == OK ? SUCCESS : complain(13, "work for a stream failed with %d", status);
}

bool stream_of(u64 handle, u64* stream) {
  std::lock_guard<std::mutex> guard(lock_);
  auto found = handles.find(handle);
  if (found == handles.end()) return false;
  *stream = found->second;
  return true;
}

const char* status_name(int status) {
  switch (status) {
    case 0: return "CUBLAS_STATUS_SUCCESS";
    case 1: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case 3: return "CUBLAS_STATUS_ALLOC_FAILED";
    case 7: return "CUBLAS_STATUS_INVALID_VALUE";
    case 13: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case 15: return "CUBLAS_STATUS_NOT_SUPPORTED";
    default: return "CUBLAS_STATUS unknown";
  }
}

// ---- cuBLASLt ----
struct Desc { int compute, scale, ta = 0, tb = 0, epilogue = 1, bias_type = -1; u64 bias = 0; };
struct Layout { int type; i64 rows, columns, ld; int order = 0, batch = 1; i64 stride = 0; };
struct Preference { u64 workspace = 0; unsigned alignment[4] = {256, 256, 256, 256}; };
struct Algorithm { u64 magic; unsigned alignment[4]; u64 workspace; char rest[32]; };
constexpr u64 MAGIC = 0x5357416c676f7269, WORKSPACE = 4096;
auto& descs = *new std::map<u64, Desc>;
auto& layouts = *new std::map<u64, Layout>;
auto& preferences = *new std::map<u64, Preference>;
auto& lt_handles = *new std::set<u64>;
u64 next_handle = 0x7000;

template <class Map> auto* lookup(Map& map, u64 handle) {
  std::lock_guard<std::mutex> guard(lock_);
  auto found = map.find(handle);
  return found == map.end() ? nullptr : &found->second;
}
template <class Map, class T> int add(Map& map, u64* out, T value) {
  std::lock_guard<std::mutex> guard(lock_);
  *out = next_handle++;
  map[*out] = value;
  return SUCCESS;
}
template <class Map> int drop(Map& map, u64 handle) {
  std::lock_guard<std::mutex> guard(lock_);
  return map.erase(handle) ? int(SUCCESS) : int(INVALID);
}
template <class T> int set(T& field, const void* value, u64 bytes) {
  if (bytes != sizeof field) return complain(INVALID, "an attribute of %llu bytes; it has %zu", (unsigned long long)bytes, sizeof field);
  memcpy(&field, value, bytes);
  return SUCCESS;
}

double gelu(double x) { return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }

}  // namespace

API const char* cublasGetStatusString(int status) { return status_name(status); }
API const char* cublasLtGetStatusString(int status) { return status_name(status); }
API int cublasGetProperty(int type, int* value) {
  const int version[] = {13, 0, 0};
  if (type < 0 || type > 2) return INVALID;
  *value = version[type];
  return SUCCESS;
}
API int cublasLtGetProperty(int type, int* value) { return cublasGetProperty(type, value); }
API u64 cublasLtGetVersion() { return 130000; }
API int cublasCreate_v2(u64* out) {
  if (current_device < 0) return NOT_READY_YET;
  return add(handles, out, u64(0));
}
API int cublasDestroy_v2(u64 handle) { return drop(handles, handle); }
API int cublasGetVersion_v2(u64, int* version) {
  *version = 130000;
  return SUCCESS;
}
API int cublasSetStream_v2(u64 handle, u64 stream) {
  if (!find_stream(stream)) return INVALID;
  std::lock_guard<std::mutex> guard(lock_);
  auto found = handles.find(handle);
  if (found == handles.end()) return NOT_READY_YET;
  found->second = stream;
  return SUCCESS;
}
API int cublasSetWorkspace_v2(u64 handle, u64 address, u64 bytes) {
  u64 stream;
  if (!stream_of(handle, &stream)) return NOT_READY_YET;
  return bytes == 0 || (address % 256 == 0 && on_device(address, bytes)) ? SUCCESS : INVALID;
}
API int cublasSetMathMode(u64, int) { return SUCCESS; }

API int cublasGemmStridedBatchedEx(u64 handle, int ta, int tb, int m, int n, int k, const void* alpha, u64 a, int at, int lda, i64 sa,
                                   u64 b, int bt, int ldb, i64 sb, const void* beta, u64 c, int ct, int ldc, i64 sc, int batch,
                                   int compute, int) {
  u64 stream;
  if (current_device < 0 || !stream_of(handle, &stream)) return NOT_READY_YET;
  if (!supported(compute, at, bt, ct)) return complain(UNSUPPORTED, "a product of types %d, %d to %d by %d", at, bt, ct, compute);
  if (m < 0 || n < 0 || k < 0 || batch < 0 || ta < 0 || ta > 2 || tb < 0 || tb > 2 || !alpha || !beta) {
    return complain(INVALID, "a product of %dx%dx%d, %d times, operations %d and %d, or without factors", m, n, k, batch, ta, tb);
  }
  Matrix out{c, ct, ldc, sc};
  return multiply(stream, {ta != 0, tb != 0, m, n, k, batch, scalar(alpha, compute), scalar(beta, compute), {a, at, lda, sa},
                           {b, bt, ldb, sb}, out, out, nullptr});
}
API int cublasGemmEx(u64 handle, int ta, int tb, int m, int n, int k, const void* alpha, u64 a, int at, int lda, u64 b, int bt, int ldb,
                     const void* beta, u64 c, int ct, int ldc, int compute, int algorithm) {
  return cublasGemmStridedBatchedEx(handle, ta, tb, m, n, k, alpha, a, at, lda, 0, b, bt, ldb, 0, beta, c, ct, ldc, 0, 1, compute, algorithm);
}

API int cublasLtCreate(u64* out) {
  if (current_device < 0) return NOT_READY_YET;
  std::lock_guard<std::mutex> guard(lock_);
  *out = next_handle++;
  lt_handles.insert(*out);
  return SUCCESS;
}
API int cublasLtDestroy(u64 handle) {
  std::lock_guard<std::mutex> guard(lock_);
  return lt_handles.erase(handle) ? int(SUCCESS) : int(INVALID);
}
API int cublasLtMatmulDescCreate(u64* out, int compute, int scale) { return add(descs, out, Desc{compute, scale}); }
API int cublasLtMatmulDescDestroy(u64 handle) { return drop(descs, handle); }
API int cublasLtMatmulDescSetAttribute(u64 handle, int attribute, const void* value, u64 bytes) {
  auto* d = lookup(descs, handle);
  if (!d) return INVALID;
  switch (attribute) {
    case 3: return set(d->ta, value, bytes);
    case 4: return set(d->tb, value, bytes);
    case 7: return set(d->epilogue, value, bytes);
    case 8: return set(d->bias, value, bytes);
    case 26: return set(d->bias_type, value, bytes);
    default: return complain(UNSUPPORTED, "attribute %d of a multiplication", attribute);
  }
}
API int cublasLtMatrixLayoutCreate(u64* out, int type, u64 rows, u64 columns, i64 ld) {
  if (ld < std::max<i64>(1, i64(rows))) return complain(INVALID, "a layout whose leading dimension is under max(1, rows)");
  return add(layouts, out, Layout{type, i64(rows), i64(columns), ld});
}
API int cublasLtMatrixLayoutDestroy(u64 handle) { return drop(layouts, handle); }
API int cublasLtMatrixLayoutSetAttribute(u64 handle, int attribute, const void* value, u64 bytes) {
  auto* l = lookup(layouts, handle);
  if (!l) return INVALID;
  switch (attribute) {
    case 1: return set(l->order, value, bytes);
    case 4: return set(l->ld, value, bytes);
    case 5: return set(l->batch, value, bytes);
    case 6: return set(l->stride, value, bytes);
    default: return complain(UNSUPPORTED, "attribute %d of a layout", attribute);
  }
}
API int cublasLtMatmulPreferenceCreate(u64* out) { return add(preferences, out, Preference{}); }
API int cublasLtMatmulPreferenceDestroy(u64 handle) { return drop(preferences, handle); }
API int cublasLtMatmulPreferenceSetAttribute(u64 handle, int attribute, const void* value, u64 bytes) {
  auto* p = lookup(preferences, handle);
  if (!p) return INVALID;
  if (attribute == 1) return set(p->workspace, value, bytes);
  if (attribute >= 5 && attribute <= 8) return set(p->alignment[attribute - 5], value, bytes);
  return complain(UNSUPPORTED, "attribute %d of a preference", attribute);
}

static int check_matmul(const Desc& d, const Layout& a, const Layout& b, const Layout& c, const Layout& out) {
  if (!supported(d.compute, a.type, b.type, out.type)) return UNSUPPORTED;
  bool epilogue = d.epilogue != 1;
  if (a.order || b.order || c.order || out.order) {
    return epilogue ? complain(UNSUPPORTED, "an epilogue on a row-major matrix") : complain(UNSUPPORTED, "a row-major matrix");
  }
  i64 m = d.ta ? a.columns : a.rows, k = d.ta ? a.rows : a.columns, kb = d.tb ? b.columns : b.rows, n = d.tb ? b.rows : b.columns;
  if (m != out.rows || n != out.columns || k != kb || a.batch != out.batch || b.batch != out.batch || c.rows != m || c.columns != n) {
    return complain(INVALID, "layouts that do not fit: %ldx%ld times %ldx%ld to %ldx%ld", long(m), long(k), long(kb), long(n), long(out.rows), long(out.columns));
  }
  return SUCCESS;
}

API int cublasLtMatmulAlgoGetHeuristic(u64, u64 desc, u64 a, u64 b, u64 c, u64 d, u64 preference, int wanted, char* results, int* found) {
  auto *x = lookup(descs, desc);
  auto *la = lookup(layouts, a), *lb = lookup(layouts, b), *lc = lookup(layouts, c), *ld = lookup(layouts, d);
  auto* p = lookup(preferences, preference);
  if (!x || !la || !lb || !lc || !ld || !p || wanted < 1) return INVALID;
  *found = 0;
  if (int status = check_matmul(*x, *la, *lb, *lc, *ld)) return status == UNSUPPORTED ? int(UNSUPPORTED) : status;
  Algorithm algorithm{MAGIC, {p->alignment[0], p->alignment[1], p->alignment[2], p->alignment[3]}, p->workspace >= WORKSPACE ? WORKSPACE : 0, {}};
  memset(results, 0, 96);
  memcpy(results, &algorithm, sizeof algorithm);
  memcpy(results + 64, &algorithm.workspace, 8);
  float waves = 1;
  memcpy(results + 76, &waves, 4);
  *found = 1;
  return SUCCESS;
}

API int cublasLtMatmul(u64 handle, u64 desc, const void* alpha, u64 a, u64 al, u64 b, u64 bl, const void* beta, u64 c, u64 cl, u64 d,
                       u64 dl, const Algorithm* algorithm, u64 workspace, u64 workspace_bytes, u64 stream) {
  {
    std::lock_guard<std::mutex> guard(lock_);
    if (current_device < 0 || !lt_handles.count(handle)) return NOT_READY_YET;
  }
  auto* x = lookup(descs, desc);
  auto *la = lookup(layouts, al), *lb = lookup(layouts, bl), *lc = lookup(layouts, cl), *ld = lookup(layouts, dl);
  if (!x || !la || !lb || !lc || !ld || !alpha || !beta) return INVALID;
  if (int status = check_matmul(*x, *la, *lb, *lc, *ld)) return status;
  if (algorithm) {
    if (algorithm->magic != MAGIC) return complain(INVALID, "an algorithm that no search has given");
    const u64 pointers[] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
      if (pointers[i] % algorithm->alignment[i]) {
        return complain(INVALID, "matrix %c is not aligned to %u bytes, as the search for the algorithm assumed", "ABCD"[i], algorithm->alignment[i]);
      }
    }
    if (algorithm->workspace > workspace_bytes || (algorithm->workspace > 0 && (workspace % 256 || !on_device(workspace, workspace_bytes)))) {
      return complain(INVALID, "less workspace than the algorithm needs, or outside of all allocations");
    }
  }
  int bias_type = x->bias_type < 0 ? ld->type : x->bias_type, mode = x->epilogue;
  u64 bias = x->bias;
  if (mode != 1 && mode != 2 && mode != 4 && mode != 6 && mode != 32 && mode != 36) return complain(UNSUPPORTED, "epilogue %d", mode);
  if ((mode & 4) && !on_device(bias, u64(ld->rows) * u64(size_of(bias_type)))) return complain(INVALID, "a bias that leaves its allocation");
  Epilogue epilogue = mode == 1 ? Epilogue() : [=](double v, i64 row) {
    if (mode & 4) v += load(reinterpret_cast<void*>(bias), row, bias_type);
    if (mode & 2) v = v < 0 ? 0 : v;
    return mode & 32 ? gelu(v) : v;
  };
  int scale = x->compute;
  return multiply(stream, {x->ta != 0, x->tb != 0, ld->rows, ld->columns, x->ta ? la->rows : la->columns, ld->batch, scalar(alpha, scale),
                           scalar(beta, scale), {a, la->type, la->ld, la->stride}, {b, lb->type, lb->ld, lb->stride},
                           {c, lc->type, lc->ld, lc->stride}, {d, ld->type, ld->ld, ld->stride}, epilogue});
}
