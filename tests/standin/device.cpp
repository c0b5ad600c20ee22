// Devices, contexts, the names of errors, and the types of numbers.
#include <map>
#include "state.h"

namespace standin {

thread_local int current_device = -1;

namespace {
constexpr u64 CONTEXT = 0x1000;
bool ready = false;

std::vector<int> visible() {
  const char* count = getenv("SHARDWISE_STANDIN_GPUS");
  int there = count ? atoi(count) : 8;
  std::vector<int> list;
  const char* text = getenv("CUDA_VISIBLE_DEVICES");
  if (!text) {
    for (int i = 0; i < there; i++) list.push_back(i);
    return list;
  }
  for (const char* at = text; *at;) {
    char* end;
    long index = strtol(at, &end, 10);
    if (end == at || index < 0 || index >= there) break;  // what follows an index that is none is not visible
    list.push_back(int(index));
    at = *end == ',' ? end + 1 : end;
  }
  return list;
}

struct Name {
  const char* name;
  const char* text;
};
const auto& names = *new std::map<int, Name>{
  {0, {"CUDA_SUCCESS", "no error"}},
  {1, {"CUDA_ERROR_INVALID_VALUE", "invalid argument"}},
  {2, {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}},
  {3, {"CUDA_ERROR_NOT_INITIALIZED", "initialization error"}},
  {100, {"CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"}},
  {101, {"CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}},
  {200, {"CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"}},
  {201, {"CUDA_ERROR_INVALID_CONTEXT", "invalid device context"}},
  {205, {"CUDA_ERROR_MAP_FAILED", "mapping of buffer object failed"}},
  {217, {"CUDA_ERROR_PEER_ACCESS_UNSUPPORTED", "peer access is not supported between these two devices"}},
  {400, {"CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"}},
  {500, {"CUDA_ERROR_NOT_FOUND", "named symbol not found"}},
  {600, {"CUDA_ERROR_NOT_READY", "device not ready"}},
  {700, {"CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"}},
  {701, {"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"}},
  {704, {"CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", "peer access is already enabled"}},
  {705, {"CUDA_ERROR_PEER_ACCESS_NOT_ENABLED", "peer access has not been enabled"}},
  {716, {"CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"}},
  {719, {"CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"}},
  {800, {"CUDA_ERROR_NOT_PERMITTED", "operation not permitted"}},
  {801, {"CUDA_ERROR_NOT_SUPPORTED", "operation not supported"}},
  {900, {"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"}},
  {901, {"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"}},
  {903, {"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not initiated in this stream"}},
  {904, {"CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"}},
  {905, {"CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"}},
  {906, {"CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "operation would make the legacy stream depend on a capturing stream"}},
  {907, {"CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"}},
  {908, {"CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "attempt to terminate a thread-local capture sequence from another thread"}},
  {910, {"CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE", "the graph update was not performed because it included changes which violated constraints specific to instantiated graph update"}},
};
}  // namespace

int complain(int status, const char* format, ...) {
  char text[512];
  va_list list;
  va_start(list, format);
  vsnprintf(text, sizeof text, format, list);
  va_end(list);
  fprintf(stderr, "stand-in (%d): %s\n", status, text);
  return status;
}

bool initialized() { return ready; }
int device_count() { return int(visible().size()); }
int physical_device(int ordinal) { return visible().at(size_t(ordinal)); }

int size_of(int type) {
  switch (type) {
    case R_64F: return 8;
    case R_32F: case R_32I: return 4;
    case R_16F: case R_16BF: return 2;
    case R_8I: case R_8U: return 1;
    default: return 0;
  }
}

float bf16_to_float(uint16_t bits) {
  uint32_t word = uint32_t(bits) << 16;
  float value;
  memcpy(&value, &word, 4);
  return value;
}

uint16_t float_to_bf16(float value) {
  uint32_t word;
  memcpy(&word, &value, 4);
  return value != value ? 0x7fc0 : uint16_t((word + 0x7fff + ((word >> 16) & 1)) >> 16);
}

double load(const void* data, i64 i, int type) {
  switch (type) {
    case R_32F: return static_cast<const float*>(data)[i];
    case R_64F: return static_cast<const double*>(data)[i];
    case R_16F: return float(static_cast<const _Float16*>(data)[i]);
    case R_16BF: return bf16_to_float(static_cast<const uint16_t*>(data)[i]);
    case R_32I: return static_cast<const int32_t*>(data)[i];
    case R_8I: return static_cast<const int8_t*>(data)[i];
    case R_8U: return static_cast<const uint8_t*>(data)[i];
    default: abort();
  }
}

void store(void* data, i64 i, int type, double value) {
  switch (type) {
    case R_32F: static_cast<float*>(data)[i] = float(value); return;
    case R_64F: static_cast<double*>(data)[i] = value; return;
    case R_16F: static_cast<_Float16*>(data)[i] = _Float16(float(value)); return;
    case R_16BF: static_cast<uint16_t*>(data)[i] = float_to_bf16(float(value)); return;
    case R_32I: static_cast<int32_t*>(data)[i] = int32_t(value); return;
    default: abort();
  }
}

}  // namespace standin

using namespace standin;

API int cuInit(unsigned flags) {
  if (flags != 0) return INVALID_VALUE;
  if (device_count() == 0) return NO_DEVICE;
  ready = true;
  return OK;
}
API int cuDriverGetVersion(int* version) {
  *version = 13000;
  return OK;
}
API int cuDeviceGetCount(int* count) {
  if (!ready) return NOT_INITIALIZED;
  *count = device_count();
  return OK;
}
API int cuDeviceGet(int* device, int ordinal) {
  if (!ready) return NOT_INITIALIZED;
  if (ordinal < 0 || ordinal >= device_count()) return INVALID_DEVICE;
  *device = ordinal;
  return OK;
}
API int cuDeviceGetName(char* name, int length, int) {
  snprintf(name, size_t(length), "Shardwise stand-in (CPU)");
  return OK;
}
API int cuDeviceGetUuid_v2(char* uuid, int device) {
  if (device < 0 || device >= device_count()) return INVALID_DEVICE;
  memset(uuid, 0x5a, 16);
  uuid[15] = char(physical_device(device));
  return OK;
}
API int cuDeviceTotalMem_v2(u64* bytes, int) {
  const char* text = getenv("SHARDWISE_STANDIN_MEMORY");
  *bytes = text ? strtoull(text, nullptr, 10) : 4ull << 30;
  return OK;
}
API int cuDeviceGetAttribute(int* value, int attribute, int device) {
  if (device < 0 || device >= device_count()) return INVALID_DEVICE;
  static const std::map<int, int>& known = *new std::map<int, int>{
    {1, 1024}, {8, 49152}, {10, 32}, {13, 1000000}, {16, 2}, {33, 0}, {36, 1000000}, {37, 1024}, {38, 1 << 20}, {41, 1},
    {75, 9}, {76, 0}, {97, 232448}, {115, 1},
  };
  auto found = known.find(attribute);
  *value = found == known.end() ? 0 : found->second;
  return OK;
}
API int cuDevicePrimaryCtxRetain(u64* context, int device) {
  if (!ready) return NOT_INITIALIZED;
  if (device < 0 || device >= device_count()) return INVALID_DEVICE;
  *context = CONTEXT + u64(device);
  return OK;
}
API int cuDevicePrimaryCtxRelease_v2(int) { return OK; }
API int cuDevicePrimaryCtxSetFlags_v2(int, unsigned) { return OK; }
API int cuCtxSetCurrent(u64 context) {
  if (!ready) return NOT_INITIALIZED;
  if (context != 0 && (context < CONTEXT || context >= CONTEXT + u64(device_count()))) return INVALID_CONTEXT;
  current_device = context == 0 ? -1 : int(context - CONTEXT);
  return OK;
}
API int cuCtxGetCurrent(u64* context) {
  *context = current_device < 0 ? 0 : CONTEXT + u64(current_device);
  return OK;
}
API int cuCtxSynchronize() {
  NEEDS_CONTEXT;
  if (capturing()) return CAPTURE_UNSUPPORTED;
  drain_all();
  check_canaries();
  return sticky;
}
API int cuGetErrorName(int error, const char** text) {
  auto found = names.find(error);
  *text = found == names.end() ? nullptr : found->second.name;
  return found == names.end() ? INVALID_VALUE : OK;
}
API int cuGetErrorString(int error, const char** text) {
  auto found = names.find(error);
  *text = found == names.end() ? nullptr : found->second.text;
  return found == names.end() ? INVALID_VALUE : OK;
}
