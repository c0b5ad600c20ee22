// Modules and launches. A kernel that touches memory outside of all allocations ends the context, not the process.
#include <atomic>
#include <csetjmp>
#include <csignal>
#include <dlfcn.h>
#include <map>
#include <sys/mman.h>
#include <unistd.h>
#include "state.h"

using namespace standin;

namespace {

struct uint3 { unsigned x, y, z; };
struct Info { int count; const uint32_t* sizes; int (*run)(uint3, uint3, unsigned, void**); unsigned bound; };
struct Function {
  const Info* info;
  u64 module;
  int device;  // its context's
  int dynamic_shared = 49152;
};

auto& lock_ = *new std::mutex;
auto& modules = *new std::set<u64>;
auto& functions = *new std::map<u64, Function>;

thread_local sigjmp_buf escape;
thread_local volatile sig_atomic_t in_kernel = 0;
struct sigaction before_segv, before_bus;

// V8 has a handler of its own for this signal, which gets what is not ours.
void on_fault(int signal, siginfo_t* info, void* context) {
  if (in_kernel) siglongjmp(escape, 1);
  const struct sigaction& old = signal == SIGSEGV ? before_segv : before_bus;
  if (old.sa_flags & SA_SIGINFO) return old.sa_sigaction(signal, info, context);
  if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) return old.sa_handler(signal);
  ::signal(signal, SIG_DFL);
  raise(signal);
}

void catch_faults() {
  static std::once_flag& once = *new std::once_flag;
  std::call_once(once, [] {
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &action, &before_segv);
    sigaction(SIGBUS, &action, &before_bus);
  });
}

int guarded_run(const Info* info, uint3 grid, uint3 block, unsigned shared, void** arguments) {
  if (sigsetjmp(escape, 1) != 0) {
    in_kernel = 0;
    return complain(ILLEGAL_ADDRESS, "a kernel read or wrote outside of all allocations");
  }
  in_kernel = 1;
  int status = info->run(grid, block, shared, arguments);
  in_kernel = 0;
  return status;
}

struct Launch {
  std::vector<char> block;
  std::vector<size_t> offsets;
};

int arguments_of(const Info* info, void** params, void** extra, Launch& launch) {
  size_t at = 0;
  for (int i = 0; i < info->count; i++) {
    size_t bytes = info->sizes[i], alignment = bytes >= 8 ? 8 : bytes;
    at = (at + alignment - 1) / alignment * alignment;
    launch.offsets.push_back(at);
    at += bytes;
  }
  launch.block.resize(at + 8);
  if (extra) {
    if (u64(extra[0]) != 1 || u64(extra[2]) != 2 || extra[4] != nullptr) return INVALID_VALUE;
    if (*static_cast<u64*>(extra[3]) < at) return complain(INVALID_VALUE, "a launch with fewer bytes of arguments than its kernel has");
    memcpy(launch.block.data(), extra[1], at);
    return OK;
  }
  if (!params && info->count > 0) return INVALID_VALUE;
  for (int i = 0; i < info->count; i++) memcpy(&launch.block[launch.offsets[size_t(i)]], params[i], info->sizes[i]);
  return OK;
}

}  // namespace

API int cuModuleLoadData(u64* module, const unsigned char* image) {
  NEEDS_CONTEXT;
  if (capturing()) return CAPTURE_UNSUPPORTED;
  catch_faults();
  if (memcmp(image, "\x7f" "ELF", 4) != 0) return INVALID_IMAGE;
  u64 sections;
  uint16_t entry_bytes, entries;
  memcpy(&sections, image + 40, 8);
  memcpy(&entry_bytes, image + 58, 2);
  memcpy(&entries, image + 60, 2);
  size_t bytes = sections + u64(entry_bytes) * entries;  // the table of sections is the file's end
  int file = memfd_create("cubin", 0);
  if (file < 0 || write(file, image, bytes) != ssize_t(bytes)) return OUT_OF_MEMORY;
  std::string path = "/proc/self/fd/" + std::to_string(file);
  // The file stays open: the loader takes a reused name for the library that it has under that name already.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return complain(INVALID_IMAGE, "%s", dlerror());
  std::lock_guard<std::mutex> guard(lock_);
  *module = reinterpret_cast<u64>(library);
  modules.insert(*module);
  return OK;
}

API int cuModuleLoadDataEx(u64* module, const unsigned char* image, unsigned, int*, void**) { return cuModuleLoadData(module, image); }

API int cuModuleUnload(u64 module) {
  NEEDS_CONTEXT;
  if (capturing()) return CAPTURE_UNSUPPORTED;
  drain_all();
  std::lock_guard<std::mutex> guard(lock_);
  if (!modules.erase(module)) return INVALID_HANDLE;
  std::erase_if(functions, [=](auto& entry) { return entry.second.module == module; });
  return OK;  // the code stays mapped: thread-local state of its fibers outlives it
}

API int cuModuleGetFunction(u64* function, u64 module, const char* name) {
  NEEDS_CONTEXT;
  std::lock_guard<std::mutex> guard(lock_);
  if (!modules.count(module)) return INVALID_HANDLE;
  auto info = reinterpret_cast<const Info* (*)()>(dlsym(reinterpret_cast<void*>(module), (std::string("shim_info_") + name).c_str()));
  if (!info) return NOT_FOUND;
  *function = reinterpret_cast<u64>(info());
  functions.try_emplace(*function, Function{info(), module, current_device});
  return OK;
}

API int cuFuncSetAttribute(u64 function, int attribute, int value) {
  NEEDS_CONTEXT;
  std::lock_guard<std::mutex> guard(lock_);
  auto found = functions.find(function);
  if (found == functions.end()) return INVALID_HANDLE;
  if (attribute != 8) return OK;
  if (value < 0 || value > 232448) return INVALID_VALUE;
  found->second.dynamic_shared = value;
  return OK;
}

API int cuFuncGetAttribute(int* value, int attribute, u64 function) {
  std::lock_guard<std::mutex> guard(lock_);
  auto found = functions.find(function);
  if (found == functions.end()) return INVALID_HANDLE;
  *value = attribute == 0 ? int(found->second.info->bound) : attribute == 8 ? found->second.dynamic_shared : attribute == 4 ? 32 : 0;
  return OK;
}

API int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, u64, int threads, u64) {
  *blocks = threads > 0 ? 2048 / threads : 0;
  return OK;
}

API int cuLaunchKernel(u64 handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                       u64 stream, void** params, void** extra) {
  NEEDS_CONTEXT;
  Function function;
  {
    std::lock_guard<std::mutex> guard(lock_);
    auto found = functions.find(handle);
    if (found == functions.end()) return INVALID_HANDLE;
    function = found->second;
  }
  if (function.device != current_device) return complain(INVALID_HANDLE, "a kernel of another context is launched");
  if (!stream_is_of(stream, current_device)) return complain(INVALID_HANDLE, "a kernel is launched in a stream of another context");
  if (gx > 0x7fffffffu) return complain(INVALID_VALUE, "a launch of %u blocks", gx);
  if (u64(bx) * by * bz > function.info->bound) {
    return complain(INVALID_VALUE, "a launch of %llu threads a block; the kernel's bound is %u", (unsigned long long)(u64(bx) * by * bz), function.info->bound);
  }
  if (!gx || !gy || !gz || !bx || !by || !bz || u64(bx) * by * bz > 1024 || bz > 64 || gy > 65535 || gz > 65535) {
    return complain(INVALID_VALUE, "a launch of grid (%u,%u,%u), block (%u,%u,%u)", gx, gy, gz, bx, by, bz);
  }
  if (int(shared) > function.dynamic_shared) {
    return complain(INVALID_VALUE, "a launch with %u bytes of shared memory; %d are allowed", shared, function.dynamic_shared);
  }
  Launch launch;
  if (int status = arguments_of(function.info, params, extra, launch)) return status;
  if (idle()) return enqueue(stream, [] { return int(OK); });
  return enqueue(stream, [=]() mutable {
    std::vector<void*> arguments;
    for (size_t offset : launch.offsets) arguments.push_back(&launch.block[offset]);
    return guarded_run(function.info, {gx, gy, gz}, {bx, by, bz}, shared, arguments.data());
  });
}

API int cuLaunchKernelEx(const char* config, u64 function, void** params, void** extra) {
  unsigned words[7];
  u64 stream;
  memcpy(words, config, sizeof words);
  memcpy(&stream, config + 32, 8);
  return cuLaunchKernel(function, words[0], words[1], words[2], words[3], words[4], words[5], words[6], stream, params, extra);
}
