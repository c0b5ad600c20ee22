// What all parts of the stand-in share: contexts, streams, memory. A test tool; see README.md.
#pragma once
#include <atomic>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <condition_variable>
#include <set>
#include <string>
#include <thread>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace standin {

using u64 = uint64_t;
using i64 = int64_t;

enum Status : int {
  OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
  INVALID_IMAGE = 200, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600,
  ILLEGAL_ADDRESS = 700, LAUNCH_OUT_OF_RESOURCES = 701, MISALIGNED_ADDRESS = 716, LAUNCH_FAILED = 719,
  NOT_PERMITTED = 800, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURE_UNMATCHED = 903,
  CAPTURE_UNJOINED = 904, CAPTURE_ISOLATION = 905, CAPTURE_IMPLICIT = 906, CAPTURED_EVENT = 907, CAPTURE_WRONG_THREAD = 908,
  GRAPH_EXEC_UPDATE_FAILURE = 910,
};

// Says on stderr what a status alone does not, and returns the status.
int complain(int status, const char* format, ...) __attribute__((format(printf, 2, 3)));

// ---- contexts: the current one belongs to a thread, as the driver's does ----
extern thread_local int current_device;  // -1: none
bool initialized();
int device_count();
int physical_device(int ordinal);  // what CUDA_VISIBLE_DEVICES makes of it
extern std::atomic<int> sticky;    // an error that ends the context: every later call returns it
#define NEEDS_CONTEXT \
  if (standin::current_device < 0) return standin::INVALID_CONTEXT; \
  if (int lost = standin::sticky) return lost

// ---- streams: one thread each, so that work really is asynchronous ----
using Op = std::function<int()>;
struct Stream;
struct Capture {
  std::vector<Op> ops;            // in the order of issue, which is an order that the events allow
  std::set<Stream*> unjoined;     // forked streams whose last work no event has brought back
  Stream* origin = nullptr;
  std::thread::id thread;         // which must end it; none in relaxed mode
  bool invalid = false;
};
struct Stream {
  std::deque<Op> queue;
  u64 pushed = 0, popped = 0;
  bool stop = false;
  int device = -1;                // its context's
  int reserved = 0;               // NCCL calls in progress: nothing else may be put here meanwhile
  std::shared_ptr<Capture> capture;
  std::thread thread;
};
extern std::mutex& state;         // guards streams and events; leaked, because threads outlive exit handlers
extern std::condition_variable& changed;
Stream* find_stream(u64 handle);  // null if there is none
bool stream_is_of(u64 handle, int device);  // the default stream is everybody's
int enqueue(u64 stream, Op op);   // or records it, where the stream captures
int enqueue_reserved(u64 stream, Op op);  // by whoever has reserved the stream
// Whether this thread captures in a mode that forbids what may wait for the GPU, or allocate; that capture is then lost.
bool capturing();
// Whether kernels and products do nothing: what is left of a step's time is the host's. (SHARDWISE_STANDIN_IDLE=1)
bool idle();
void drain(Stream* stream);
void drain_all();

// ---- memory: every range that the library is given must lie in a live allocation ----
bool on_device(u64 address, u64 bytes);
bool pinned(u64 address, u64 bytes);
int allocate(u64* address, u64 bytes, bool pool = false);
int release(u64 address);
int check_canaries();             // ILLEGAL_ADDRESS if somebody wrote past the end of an allocation

// ---- numbers ----
enum DataType : int { R_32F = 0, R_64F = 1, R_16F = 2, R_8I = 3, R_8U = 8, R_32I = 10, R_16BF = 14 };
int size_of(int type);            // 0: a type that the stand-in does not know
double load(const void* data, i64 index, int type);
void store(void* data, i64 index, int type, double value);
float bf16_to_float(uint16_t bits);
uint16_t float_to_bf16(float value);

}  // namespace standin
