// Device and pinned memory: poisoned, between guard pages, and known range by range.
#include <map>
#include <sys/mman.h>
#include <unistd.h>
#include "ipc.h"
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
  int device;          // the GPU that it lies on, whatever this process calls it
  bool pool;           // from cuMemAllocAsync
  int file = -1;       // where other processes may open it: exported memory is shared
  SharedHeader* header = nullptr;
};

auto& lock_ = *new std::mutex;
auto& blocks = *new std::map<u64, Block>;
auto& opened = *new std::map<u64, Opened>;  // memory of other processes
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
  return inside(blocks, address, bytes, [](const Block& b) { return b.bytes; }) ||
         inside(opened, address, bytes, [](const Opened& o) { return o.header->freed ? 0 : o.bytes; });
}

bool pinned(u64 address, u64 bytes) {
  Guard guard(lock_);
  return inside(host, address, bytes, [](u64 b) { return b; });
}

int allocate(u64* out, u64 bytes, bool pool) {
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
  memset(address, idle() ? 0 : POISON, bytes);
  memset(address + bytes, CANARY, whole - offset - bytes);
  blocks[reinterpret_cast<u64>(address)] = {bytes, map, mapped, physical_device(current_device), pool};
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
  if (block.file >= 0) {  // whoever has it open faults from now on
    block.header->freed = 1;
    if (ftruncate(block.file, PAGE) != 0) abort();
    munmap(block.header, PAGE);
    close(block.file);
  }
  // Whoever still reads or writes it faults.
  mmap(block.map, block.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  freed.push_back(block);
  for (quarantined += block.mapped; quarantined > QUARANTINE; freed.pop_front()) {
    quarantined -= freed.front().mapped;
    munmap(freed.front().map, freed.front().mapped);
  }
  return status;
}

int export_block(u64 address, Exported* out) {
  Guard guard(lock_);
  auto found = blocks.upper_bound(address);
  if (found == blocks.begin() || address >= (--found)->first + found->second.bytes) {
    return complain(INVALID_VALUE, "memory is exported that is not allocated");
  }
  Block& block = found->second;
  if (block.pool) return complain(INVALID_VALUE, "memory is exported that cuMemAllocAsync gave");
  u64 whole = block.mapped - 2 * PAGE, offset = found->first - reinterpret_cast<u64>(block.map) - PAGE;
  if (block.file < 0) {
    // Its pages become those of a file, in place: nothing may run meanwhile.
    int file = memfd_create("standin-ipc", 0);
    if (file < 0 || ftruncate(file, off_t(PAGE + whole)) != 0 || pwrite(file, block.map + PAGE, whole, PAGE) != ssize_t(whole)) {
      return OUT_OF_MEMORY;
    }
    void* header = mmap(nullptr, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (header == MAP_FAILED) return OUT_OF_MEMORY;
    if (mmap(block.map + PAGE, whole, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, PAGE) == MAP_FAILED) return OUT_OF_MEMORY;
    block.file = file;
    block.header = static_cast<SharedHeader*>(header);
    static u64 count = 0;
    block.header->nonce = reinterpret_cast<u64>(block.map) ^ (u64(getpid()) << 32) ^ ++count;
  }
  *out = {block.file, block.device, block.header->nonce, block.bytes, whole, offset};
  return OK;
}

u64 adopt(const Opened& memory, u64 address) {
  Guard guard(lock_);
  opened[address] = memory;
  return address;
}

Opened* opened_by(u64 nonce, u64* address) {
  Guard guard(lock_);
  for (auto& [at, memory] : opened) {
    if (memory.header->nonce == nonce) return *address = at, &memory;
  }
  return nullptr;
}

bool give_up(u64 address, Opened* out) {
  Guard guard(lock_);
  auto found = opened.find(address);
  if (found == opened.end()) return false;
  *out = found->second;
  if (--found->second.opens == 0) opened.erase(found);
  return true;
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
  return allocate(out, bytes, true);
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

API int cuMemHostAlloc(u64* out, u64 bytes, unsigned flags) {
  NEEDS_CONTEXT;
  if (capturing()) return CAPTURE_UNSUPPORTED;
  if (bytes == 0 || flags > 7) return INVALID_VALUE;
  void* memory = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  memset(memory, POISON, bytes);
  std::lock_guard<std::mutex> guard(lock_);
  *out = reinterpret_cast<u64>(memory);
  host[*out] = bytes;
  return OK;
}
API int cuMemFreeHost(u64 address) {
  NEEDS_CONTEXT;
  if (capturing()) return CAPTURE_UNSUPPORTED;
  drain_all();
  std::lock_guard<std::mutex> guard(lock_);
  if (!host.erase(address)) return INVALID_VALUE;
  free(reinterpret_cast<void*>(address));
  return OK;
}
API int cuMemHostRegister_v2(u64 address, u64 bytes, unsigned) {
  NEEDS_CONTEXT;
  if (capturing()) return CAPTURE_UNSUPPORTED;
  if (address == 0 || bytes == 0) return INVALID_VALUE;
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
API int cuMemHostGetDevicePointer_v2(u64* out, u64 address, unsigned flags) {
  NEEDS_CONTEXT;
  if (flags != 0 || !pinned(address, 1)) return INVALID_VALUE;
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
