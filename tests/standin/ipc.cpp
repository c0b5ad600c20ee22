// Memory of one process in another (cuIpc*), and access between the GPUs of one process.
#include <fcntl.h>
#include <set>
#include <sys/mman.h>
#include <unistd.h>
#include "ipc.h"

using namespace standin;

namespace {

constexpr u64 PAGE = 4096, MAGIC = 0x5357697063303031;
enum { PEER_ACCESS_UNSUPPORTED = 217, PEER_ACCESS_ALREADY_ENABLED = 704, PEER_ACCESS_NOT_ENABLED = 705, MAP_FAILED_STATUS = 205 };

struct Handle {
  u64 magic;
  int process, file, device, unused;
  u64 nonce, bytes, whole, offset;
  u64 sum;  // of all words before, to see whether all bytes arrive
};
static_assert(sizeof(Handle) == 64);

u64 sum_of(const Handle& handle) {
  u64 words[7], sum = 1;
  memcpy(words, &handle, sizeof words);
  for (u64 word : words) sum = sum * 0x100000001b3 + word;
  return sum;
}

bool peers_reach_each_other() {
  const char* text = getenv("SHARDWISE_STANDIN_PEER");
  return !text || std::string(text) != "0";
}

auto& lock_ = *new std::mutex;
auto& enabled = *new std::set<std::pair<int, int>>;

int device_of(u64 context) {
  int device = int(context - 0x1000);
  return device >= 0 && device < device_count() ? device : -1;
}

}  // namespace

API int cuDeviceCanAccessPeer(int* can, int device, int peer) {
  if (!initialized()) return NOT_INITIALIZED;
  int count = device_count();
  if (device < 0 || device >= count || peer < 0 || peer >= count) return INVALID_DEVICE;
  *can = device != peer && peers_reach_each_other();
  return OK;
}

API int cuCtxEnablePeerAccess(u64 context, unsigned flags) {
  NEEDS_CONTEXT;
  int peer = device_of(context);
  if (flags != 0) return INVALID_VALUE;
  if (peer < 0 || peer == current_device) return INVALID_CONTEXT;
  if (!peers_reach_each_other()) return PEER_ACCESS_UNSUPPORTED;
  std::lock_guard<std::mutex> guard(lock_);
  return enabled.insert({current_device, peer}).second ? int(OK) : int(PEER_ACCESS_ALREADY_ENABLED);
}

API int cuCtxDisablePeerAccess(u64 context) {
  NEEDS_CONTEXT;
  int peer = device_of(context);
  if (peer < 0) return INVALID_CONTEXT;
  std::lock_guard<std::mutex> guard(lock_);
  return enabled.erase({current_device, peer}) ? int(OK) : int(PEER_ACCESS_NOT_ENABLED);
}

API int cuIpcGetMemHandle(Handle* out, u64 address) {
  NEEDS_CONTEXT;
  if (capturing()) return CAPTURE_UNSUPPORTED;
  drain_all();
  Exported memory;
  if (int status = export_block(address, &memory)) return status;
  *out = {MAGIC, getpid(), memory.file, memory.device, 0, memory.nonce, memory.bytes, memory.whole, memory.offset, 0};
  // 56 bytes of it are summed up in the last 8.
  out->sum = sum_of(*out);
  return OK;
}

API int cuIpcOpenMemHandle_v2(u64* out, Handle handle, unsigned flags) {
  NEEDS_CONTEXT;
  if (capturing()) return CAPTURE_UNSUPPORTED;
  if (flags != 1) return complain(INVALID_VALUE, "a memory handle is opened with flags %u", flags);
  if (handle.magic != MAGIC || handle.sum != sum_of(handle)) return complain(INVALID_VALUE, "a memory handle that nobody has made");
  if (handle.process == getpid()) return complain(INVALID_CONTEXT, "a memory handle is opened in the process that made it");
  if (handle.device != physical_device(current_device) && !peers_reach_each_other()) return PEER_ACCESS_UNSUPPORTED;
  if (Opened* known = opened_by(handle.nonce, out)) {
    known->opens++;
    return OK;
  }
  std::string path = "/proc/" + std::to_string(handle.process) + "/fd/" + std::to_string(handle.file);
  int file = open(path.c_str(), O_RDWR);
  if (file < 0) return complain(INVALID_VALUE, "a memory handle of a process that has ended, or of memory that was freed");
  void* header = mmap(nullptr, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  auto* shared = static_cast<SharedHeader*>(header);
  if (header == MAP_FAILED || shared->nonce != handle.nonce || shared->freed) {
    close(file);
    return complain(INVALID_VALUE, "a memory handle of memory that was freed");
  }
  const char* lossy = getenv("SHARDWISE_STANDIN_PEER");
  bool lost = lossy && std::string(lossy) == "lossy";  // as where an IOMMU sends writes elsewhere
  u64 mapped = handle.whole + 2 * PAGE;
  char* map = static_cast<char*>(mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  void* data = map == MAP_FAILED
    ? MAP_FAILED
    : mmap(map + PAGE, handle.whole, PROT_READ | PROT_WRITE, (lost ? MAP_PRIVATE : MAP_SHARED) | MAP_FIXED, file, PAGE);
  close(file);
  if (data == MAP_FAILED) return MAP_FAILED_STATUS;
  *out = adopt({shared, handle.bytes, map, mapped, 1}, reinterpret_cast<u64>(map) + PAGE + handle.offset);
  return OK;
}

API int cuIpcCloseMemHandle(u64 address) {
  NEEDS_CONTEXT;
  if (capturing()) return CAPTURE_UNSUPPORTED;
  drain_all();
  Opened memory;
  if (!give_up(address, &memory)) return complain(INVALID_VALUE, "memory of another process is closed that is not open");
  if (memory.opens > 1) return OK;
  // Whoever still reads or writes it faults.
  mmap(memory.map, memory.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  munmap(memory.header, PAGE);
  return OK;
}
