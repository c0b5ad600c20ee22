// Device and pinned memory: poisoned, between guard pages, and known range by range.
#include <map>
#include <sys/mman.h>
#include "state.h"

namespace standin {
namespace {

constexpr u64 PAGE = 4096, ALIGNMENT = 256;
constexpr unsigned char POISON = 0xff, CANARY = 0xa5;  // 0xff.. is NaN in every float
constexpr u64 QUARANTINE = 4ull << 30;                 // addresses of freed blocks are not given out again at once

struct Block {
  u64 bytes;
  char* map;
  u64 mapped;
};

auto& lock_ = *new std::mutex;
auto& blocks = *new std::map<u64, Block>;
auto& host = *new std::map<u64, u64>;
auto& freed = *new std::deque<Block>;
u64 used = 0, quarantined = 0;
using Guard = std::lock_guard<std::mutex>;

u64 capacity() {
  const char* text = getenv("SHARDWISE_STANDIN_MEMORY");
  return text ? strtoull(text, nullptr, 10) : 4ull << 30;
}

template <class Map, class Size> bool inside(const Map& map, u64 address, u64 bytes, Size size) {
  auto next = map.upper_bound(address);
  if (next == map.begin()) return false;
  --next;
  return address + bytes <= next->first + size(next->second) && address + bytes >= address;
}

// The bytes between the end of what was asked for and the guard page.
int damaged(u64 address, const Block& block) {
  auto* end = reinterpret_cast<unsigned char*>(address + block.bytes);
  auto* guard = reinterpret_cast<unsigned char*>(block.map + block.mapped - PAGE);
  for (; end < guard; end++) {
    if (*end != CANARY) return complain(ILLEGAL_ADDRESS, "something wrote past the end of %llu bytes", (unsigned long long)block.bytes);
  }
  return OK;
}

int copy(u64 to, u64 from, u64 bytes, u64 stream, bool to_device, bool from_device) {
  auto good = [=] { return (!to_device || on_device(to, bytes)) && (!from_device || on_device(from, bytes)); };
  if (bytes == 0) return OK;
  if (!good()) return complain(INVALID_VALUE, "a copy of %llu bytes leaves its allocation", (unsigned long long)bytes);
  return enqueue(stream, [=] {
    if (!good()) return complain(ILLEGAL_ADDRESS, "memory was freed before a copy that was waiting for it");
    memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
    return int(OK);
  });
}

int fill(u64 to, u64 count, u64 stream, u64 width, uint32_t value) {
  if (to % width != 0 || !on_device(to, count * width)) return INVALID_VALUE;
  return enqueue(stream, [=] {
    if (!on_device(to, count * width)) return int(ILLEGAL_ADDRESS);
    for (u64 i = 0; i < count; i++) memcpy(reinterpret_cast<char*>(to) + i * width, &value, width);
    return int(OK);
  });
}

int synchronous(int status) {
  if (status != OK) return status;
  drain(find_stream(0));
  return sticky;
}

}  // namespace

bool on_device(u64 address, u64 bytes) {
  Guard guard(lock_);
  return inside(blocks, address, bytes, [](const Block& b) { return b.bytes; });
}

bool pinned(u64 address, u64 bytes) {
  Guard guard(lock_);
  return inside(host, address, bytes, [](u64 b) { return b; });
}

int allocate(u64* out, u64 bytes) {
  if (bytes == 0) return INVALID_VALUE;
  u64 whole = (bytes + PAGE - 1) / PAGE * PAGE, mapped = whole + 2 * PAGE;
  Guard guard(lock_);
  if (used + bytes > capacity()) return OUT_OF_MEMORY;
  char* map = static_cast<char*>(mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (map == MAP_FAILED) return OUT_OF_MEMORY;
  mprotect(map + PAGE, whole, PROT_READ | PROT_WRITE);
  // As near to the guard page as the alignment lets it be, so that overruns hit it.
  u64 offset = (whole - bytes) / ALIGNMENT * ALIGNMENT;
  char* address = map + PAGE + offset;
  memset(address, POISON, bytes);
  memset(address + bytes, CANARY, whole - offset - bytes);
  blocks[reinterpret_cast<u64>(address)] = {bytes, map, mapped};
  used += bytes;
  *out = reinterpret_cast<u64>(address);
  return OK;
}

int release(u64 address) {
  Guard guard(lock_);
  auto found = blocks.find(address);
  if (found == blocks.end()) return complain(INVALID_VALUE, "memory is freed that is not allocated, or not from its start");
  Block block = found->second;
  int status = damaged(address, block);
  if (status != OK) sticky = status;
  blocks.erase(found);
  used -= block.bytes;
  // Whoever still reads or writes it faults.
  mmap(block.map, block.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  freed.push_back(block);
  for (quarantined += block.mapped; quarantined > QUARANTINE; freed.pop_front()) {
    quarantined -= freed.front().mapped;
    munmap(freed.front().map, freed.front().mapped);
  }
  return status;
}

int check_canaries() {
  Guard guard(lock_);
  for (auto& [address, block] : blocks) {
    if (int status = damaged(address, block)) return sticky = status;
  }
  return OK;
}

}  // namespace standin

using namespace standin;

API int cuMemAlloc_v2(u64* out, u64 bytes) {
  NEEDS_CONTEXT;
  if (capturing()) return CAPTURE_UNSUPPORTED;
  return allocate(out, bytes);
}
API int cuMemFree_v2(u64 address) {
  NEEDS_CONTEXT;
  if (address == 0) return OK;
  if (capturing()) return CAPTURE_UNSUPPORTED;
  drain_all();  // as the driver does
  return release(address);
}
API int cuMemAllocAsync(u64* out, u64 bytes, u64 stream) {
  NEEDS_CONTEXT;
  if (!find_stream(stream)) return INVALID_HANDLE;
  return allocate(out, bytes);
}
API int cuMemFreeAsync(u64 address, u64 stream) {
  NEEDS_CONTEXT;
  return enqueue(stream, [=] { return release(address); });
}
API int cuMemGetInfo_v2(u64* free_bytes, u64* total) {
  NEEDS_CONTEXT;
  std::lock_guard<std::mutex> guard(lock_);
  *total = capacity();
  *free_bytes = *total - used;
  return OK;
}
API int cuDeviceGetDefaultMemPool(u64* pool, int) { *pool = 1; return OK; }
API int cuMemPoolSetAttribute(u64 pool, int, void*) { return pool == 1 ? OK : INVALID_VALUE; }
API int cuMemPoolTrimTo(u64 pool, u64) { return pool == 1 ? OK : INVALID_VALUE; }

API int cuMemHostAlloc(u64* out, u64 bytes, unsigned) {
  NEEDS_CONTEXT;
  if (capturing()) return CAPTURE_UNSUPPORTED;
  if (bytes == 0) return INVALID_VALUE;
  void* memory = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  memset(memory, POISON, bytes);
  std::lock_guard<std::mutex> guard(lock_);
  *out = reinterpret_cast<u64>(memory);
  host[*out] = bytes;
  return OK;
}
API int cuMemFreeHost(u64 address) {
  NEEDS_CONTEXT;
  drain_all();
  std::lock_guard<std::mutex> guard(lock_);
  if (!host.erase(address)) return INVALID_VALUE;
  free(reinterpret_cast<void*>(address));
  return OK;
}
API int cuMemHostRegister_v2(u64 address, u64 bytes, unsigned) {
  NEEDS_CONTEXT;
  std::lock_guard<std::mutex> guard(lock_);
  if (inside(host, address, 1, [](u64 b) { return b; })) return 712;  // CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED
  host[address] = bytes;
  return OK;
}
API int cuMemHostUnregister(u64 address) {
  NEEDS_CONTEXT;
  std::lock_guard<std::mutex> guard(lock_);
  return host.erase(address) ? OK : 713;  // CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED
}
API int cuMemHostGetDevicePointer_v2(u64* out, u64 address, unsigned) {
  NEEDS_CONTEXT;
  if (!pinned(address, 1)) return INVALID_VALUE;
  *out = address;
  return OK;
}

API int cuMemcpyHtoDAsync_v2(u64 to, u64 from, u64 bytes, u64 stream) {
  NEEDS_CONTEXT;
  if (!pinned(from, bytes)) return complain(INVALID_VALUE, "an asynchronous copy from host memory that is not pinned");
  return copy(to, from, bytes, stream, true, false);
}
API int cuMemcpyDtoHAsync_v2(u64 to, u64 from, u64 bytes, u64 stream) {
  NEEDS_CONTEXT;
  if (!pinned(to, bytes)) return complain(INVALID_VALUE, "an asynchronous copy to host memory that is not pinned");
  return copy(to, from, bytes, stream, false, true);
}
API int cuMemcpyDtoDAsync_v2(u64 to, u64 from, u64 bytes, u64 stream) {
  NEEDS_CONTEXT;
  return copy(to, from, bytes, stream, true, true);
}
API int cuMemcpyHtoD_v2(u64 to, u64 from, u64 bytes) {
  NEEDS_CONTEXT;
  return synchronous(copy(to, from, bytes, 0, true, false));
}
API int cuMemcpyDtoH_v2(u64 to, u64 from, u64 bytes) {
  NEEDS_CONTEXT;
  return synchronous(copy(to, from, bytes, 0, false, true));
}
API int cuMemsetD8Async(u64 to, unsigned char value, u64 count, u64 stream) {
  NEEDS_CONTEXT;
  return fill(to, count, stream, 1, value);
}
API int cuMemsetD16Async(u64 to, unsigned short value, u64 count, u64 stream) {
  NEEDS_CONTEXT;
  return fill(to, count, stream, 2, value);
}
API int cuMemsetD32Async(u64 to, unsigned value, u64 count, u64 stream) {
  NEEDS_CONTEXT;
  return fill(to, count, stream, 4, value);
}

API int cuIpcGetMemHandle(void*, u64) { return 801; }  // CUDA_ERROR_NOT_SUPPORTED
struct IpcHandle { char bytes[64]; };
API int cuIpcOpenMemHandle_v2(u64*, IpcHandle, unsigned) { return 801; }
API int cuIpcCloseMemHandle(u64) { return 801; }
