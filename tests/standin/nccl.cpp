// NCCL over shared memory: one segment per communicator. Every rank posts what it calls, and all compare before data moves.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <fcntl.h>
#include <map>
#include <sys/mman.h>
#include <unistd.h>
#include "state.h"

using namespace standin;

namespace {

enum Result { SUCCESS = 0, CUDA_ERROR = 1, SYSTEM_ERROR = 2, INTERNAL_ERROR = 3, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6, IN_PROGRESS = 7 };
enum Kind { ALL_REDUCE, REDUCE, BROADCAST, ALL_GATHER, REDUCE_SCATTER };
const char* const KINDS[] = {"AllReduce", "Reduce", "Broadcast", "AllGather", "ReduceScatter"};
constexpr int MAX_RANKS = 16, CUSTOM_OPS = 5;
constexpr u64 SLOT = 1 << 18, BOX = 1 << 16;

struct Call {
  u64 sequence;
  int kind, dtype, op, root;
  u64 count;
  bool operator==(const Call& o) const {
    return sequence == o.sequence && kind == o.kind && dtype == o.dtype && op == o.op && root == o.root && count == o.count;
  }
};
struct Barrier { std::atomic<int> arrived, generation; };
struct Box { std::atomic<u64> full, total; std::atomic<int> dtype; };
struct Shared {
  std::atomic<int> joined;
  Barrier data, host;  // of work in streams, and of calls of hosts
  Call calls[MAX_RANKS];
  std::atomic<int> device[MAX_RANKS];
  Box boxes[MAX_RANKS][MAX_RANKS];
  int color[MAX_RANKS], key[MAX_RANKS];
  char child[MAX_RANKS][64];
};

struct Comm {
  std::string name;
  int size = 0, rank = 0, device = 0;
  bool blocking = true, connected = false;
  Shared* shared = nullptr;
  char* data = nullptr;
  u64 sequence = 0;
  std::atomic<int> state{IN_PROGRESS};
  std::atomic<bool> aborted{false};
  std::atomic<int> running{0};
  struct Custom { int dtype; double factor; };
  std::vector<Custom> custom;
  char* slot(int r) const { return data + u64(r) * SLOT; }
  char* box(int from, int to) const { return data + u64(size) * SLOT + u64(from * size + to) * BOX; }
};

auto& lock_ = *new std::mutex;
auto& comms = *new std::map<u64, std::shared_ptr<Comm>>;
char last_error[512] = "";

int fail(int result, const char* format, ...) __attribute__((format(printf, 2, 3)));
int fail(int result, const char* format, ...) {
  std::lock_guard<std::mutex> guard(lock_);
  va_list list;
  va_start(list, format);
  vsnprintf(last_error, sizeof last_error, format, list);
  va_end(list);
  fprintf(stderr, "stand-in (NCCL %d): %s\n", result, last_error);
  return result;
}

std::shared_ptr<Comm> find(u64 handle) {
  std::lock_guard<std::mutex> guard(lock_);
  auto found = comms.find(handle);
  return found == comms.end() ? nullptr : found->second;
}

// Waits as a GPU does: until it comes true, or somebody on this rank aborts.
template <class F> bool wait(Comm& c, F ready) {
  for (int i = 0; !ready(); i++) {
    if (c.aborted) return false;
    if (i < 200) std::this_thread::yield();
    else usleep(50);
  }
  return true;
}

bool meet(Comm& c, Barrier& b) {
  int generation = b.generation;
  if (++b.arrived == c.size) {
    b.arrived = 0;
    b.generation++;
    return true;
  }
  return wait(c, [&] { return b.generation != generation; });
}

std::string fresh_name() {
  static std::atomic<int> count{0};
  char text[64];
  auto now = std::chrono::steady_clock::now().time_since_epoch().count();
  snprintf(text, sizeof text, "/standin-nccl-%d-%llx-%d", getpid(), (unsigned long long)now, count++);
  return text;
}

int join(Comm& c) {
  u64 bytes = sizeof(Shared) + u64(c.size) * SLOT + u64(c.size * c.size) * BOX;
  int file = shm_open(c.name.c_str(), O_CREAT | O_RDWR, 0600);
  if (file < 0 || ftruncate(file, off_t(bytes)) != 0) return fail(SYSTEM_ERROR, "no shared memory");
  char* map = static_cast<char*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
  close(file);
  if (map == MAP_FAILED) return fail(SYSTEM_ERROR, "no shared memory");
  c.shared = reinterpret_cast<Shared*>(map);
  c.data = map + sizeof(Shared);
  c.shared->device[c.rank] = c.device + 1;
  c.shared->joined++;
  bool all = wait(c, [&] { return c.shared->joined >= c.size; });
  if (all) all = meet(c, c.shared->host);
  shm_unlink(c.name.c_str());
  if (!all) return REMOTE_ERROR;
  for (int r = 0; r < c.size; r++) {
    if (r != c.rank && c.shared->device[r] == c.shared->device[c.rank]) {
      return fail(INVALID_USAGE, "Duplicate GPU detected : rank %d and rank %d both on CUDA device %d", c.rank, r, c.device);
    }
  }
  return SUCCESS;
}

int numeric(int dtype) {
  switch (dtype) {
    case 6: return R_16F;
    case 7: return R_32F;
    case 8: return R_64F;
    case 9: return R_16BF;
    default: return -1;
  }
}
u64 bytes_of(int dtype) {
  switch (dtype) {
    case 0: case 1: case 10: case 11: return 1;
    case 2: case 3: case 7: return 4;
    case 4: case 5: case 8: return 8;
    default: return 2;
  }
}

template <class T> T combine(int op, T a, T b) {
  switch (op) {
    case 1: return T(a * b);
    case 2: return a > b ? a : b;
    case 3: return a < b ? a : b;
    default: return T(a + b);
  }
}
// As NCCL's own kernels: maximum and minimum of floats ignore NaN.
double combine_floats(int op, double a, double b) { return op == 2 ? std::fmax(a, b) : op == 3 ? std::fmin(a, b) : combine(op, a, b); }

template <class T> void reduce_integers(const Comm& c, int op, u64 at, void* out, u64 to) {
  T sum = reinterpret_cast<T*>(c.slot(0))[at];
  for (int r = 1; r < c.size; r++) sum = combine<T>(op, sum, reinterpret_cast<T*>(c.slot(r))[at]);
  if (op == 4) sum = T(sum / T(c.size));
  static_cast<T*>(out)[to] = sum;
}

// Element `at` of all slots, in the order of ranks, into element `to` of `out`. 16-bit floats are rounded after each rank's.
void reduce_element(const Comm& c, int dtype, int op, u64 at, void* out, u64 to) {
  switch (dtype) {
    case 0: return reduce_integers<int8_t>(c, op, at, out, to);
    case 1: return reduce_integers<uint8_t>(c, op, at, out, to);
    case 2: return reduce_integers<int32_t>(c, op, at, out, to);
    case 3: return reduce_integers<uint32_t>(c, op, at, out, to);
    case 4: return reduce_integers<int64_t>(c, op, at, out, to);
    case 5: return reduce_integers<uint64_t>(c, op, at, out, to);
    default: {
      int type = numeric(dtype);
      double sum = load(c.slot(0), i64(at), type);
      char cell[8];
      auto round = [&](double v) { return store(cell, 0, type, v), load(cell, 0, type); };
      for (int r = 1; r < c.size; r++) sum = round(combine_floats(op, sum, load(c.slot(r), i64(at), type)));
      store(out, i64(to), type, sum);
    }
  }
}

struct Collective {
  std::shared_ptr<Comm> comm;
  u64 send, recv, count, stream;
  int kind, dtype, op, root;
};
struct Message {
  std::shared_ptr<Comm> comm;
  u64 data, bytes, stream;
  int peer, dtype;
  bool send;
};
thread_local int depth = 0;
thread_local std::vector<Collective> collectives;
thread_local std::vector<Message> messages;

bool mismatched(Comm& c, const Call& mine) {
  for (int r = 0; r < c.size; r++) {
    const Call& other = c.shared->calls[r];
    if (other == mine) continue;
    const char* mode = getenv("SHARDWISE_STANDIN_MISMATCH");
    if (mode && std::string(mode) == "hang") {  // as the real one may
      wait(c, [] { return false; });
      return true;
    }
    c.state = fail(INVALID_USAGE, "rank %d call %llu is %s of %llu elements, type %d, op %d, root %d; rank %d call %llu is %s of %llu, type %d, op %d, root %d",
                   c.rank, (unsigned long long)mine.sequence, KINDS[mine.kind], (unsigned long long)mine.count, mine.dtype, mine.op, mine.root, r,
                   (unsigned long long)other.sequence, KINDS[other.kind], (unsigned long long)other.count, other.dtype, other.op, other.root);
    return true;
  }
  return false;
}

// Multiplies this rank's elements by its factor: averages, and sums of products.
void premultiply(Comm& c, int dtype, int op, void* slot, u64 n) {
  int type = numeric(dtype);
  bool average = op == 4 && type >= 0, custom = op >= CUSTOM_OPS;
  if (!average && !custom) return;
  double factor = average ? 1.0 / c.size : c.custom[size_t(op - CUSTOM_OPS)].factor;
  for (u64 i = 0; i < n; i++) store(slot, i64(i), type, load(slot, i64(i), type) * factor);
}

bool broken(const Comm& c) { return c.state != SUCCESS && c.state != IN_PROGRESS; }

int run(const Collective& o) {
  Comm& c = *o.comm;
  if (c.aborted || broken(c)) return OK;
  u64 item = bytes_of(o.dtype), blocks = o.kind == REDUCE_SCATTER ? u64(c.size) : 1, total = o.count * blocks;
  bool custom = o.op >= CUSTOM_OPS;
  Call mine{++c.sequence, o.kind, o.dtype, custom ? int(CUSTOM_OPS) : o.op, o.root, o.count};
  c.shared->calls[c.rank] = mine;
  if (!meet(c, c.shared->data) || mismatched(c, mine)) return OK;
  // A peer may only post its next call when all have compared this one.
  if (!meet(c, c.shared->data)) return OK;
  int op = custom || (o.op == 4 && numeric(o.dtype) >= 0) ? 0 : o.op;
  bool writes = (o.kind != REDUCE || c.rank == o.root) && o.recv != 0, reads = o.kind != BROADCAST || c.rank == o.root;
  u64 per = SLOT / item;
  for (u64 at = 0; at < total; at += per) {
    u64 n = std::min(per, total - at);
    if (reads) {
      memcpy(c.slot(c.rank), reinterpret_cast<char*>(o.send) + at * item, n * item);
      premultiply(c, o.dtype, o.op, c.slot(c.rank), n);
    }
    if (!meet(c, c.shared->data)) return OK;
    char* out = reinterpret_cast<char*>(o.recv);
    if (o.kind == BROADCAST) memcpy(out + at * item, c.slot(o.root), n * item);
    else if (o.kind == ALL_GATHER) for (int r = 0; r < c.size; r++) memcpy(out + (u64(r) * o.count + at) * item, c.slot(r), n * item);
    else if (o.kind == REDUCE_SCATTER) for (u64 i = 0; i < n; i++) {
      if ((at + i) / o.count == u64(c.rank)) reduce_element(c, o.dtype, op, i, out, (at + i) % o.count);
    } else if (writes) for (u64 i = 0; i < n; i++) reduce_element(c, o.dtype, op, i, out, at + i);
    if (!meet(c, c.shared->data)) return OK;
  }
  return OK;
}

// All messages of one group on one stream move at once, so that they may come in any order.
int run(std::vector<Message> list) {
  Comm& c = *list[0].comm;
  if (c.aborted || broken(c)) return OK;
  struct Moving { Message m; u64 done = 0; bool begun = false, finished = false; };
  std::vector<Moving> moving;
  for (auto& m : list) moving.push_back({m});
  size_t left = moving.size();
  for (int idle = 0; left > 0;) {
    if (c.aborted) return OK;
    bool progress = false;
    std::set<std::pair<int, bool>> busy;  // messages of a pair keep their order
    for (auto& x : moving) {
      if (x.finished || !busy.insert({x.m.peer, x.m.send}).second) continue;
      int from = x.m.send ? c.rank : x.m.peer, to = x.m.send ? x.m.peer : c.rank;
      Box& box = c.shared->boxes[from][to];
      u64 n = std::min(BOX, x.m.bytes - x.done);
      char* data = reinterpret_cast<char*>(x.m.data) + x.done;
      if (x.m.send) {
        if (box.full != 0) continue;
        box.total = x.m.bytes;
        box.dtype = x.m.dtype;
        memcpy(c.box(from, to), data, n);
        box.full = n + 1;
      } else {
        if (box.full == 0) continue;
        if (box.total != x.m.bytes || box.dtype != x.m.dtype) {
          c.state = fail(INVALID_USAGE, "rank %d receives %llu bytes of type %d from rank %d, which sends %llu of type %d", c.rank,
                         (unsigned long long)x.m.bytes, x.m.dtype, from, (unsigned long long)box.total.load(), box.dtype.load());
          return OK;
        }
        memcpy(data, c.box(from, to), n);
        box.full = 0;
      }
      x.done += n;
      progress = true;
      if (x.done == x.m.bytes) {
        x.finished = true;
        left--;
      }
    }
    if (progress) idle = 0;
    else if (++idle < 200) std::this_thread::yield();
    else usleep(50);
  }
  return OK;
}

using Enqueue = int (*)(u64, Op);

int put(const std::shared_ptr<Comm>& comm, u64 stream, Op op, Enqueue enqueue_op) {
  int status = enqueue_op(stream, [comm, op] {
    comm->running++;
    int result = op();
    comm->running--;
    return result;
  });
  if (status == OK) return SUCCESS;
  return fail(CUDA_ERROR, "work for a stream failed with %d", status);
}

int put_all(const std::vector<Collective>& calls, const std::vector<Message>& all, Enqueue enqueue_op) {
  for (auto& call : calls) {
    if (int result = put(call.comm, call.stream, [call] { return run(call); }, enqueue_op)) return result;
  }
  std::map<std::pair<Comm*, u64>, std::vector<Message>> by_stream;
  for (auto& m : all) by_stream[{m.comm.get(), m.stream}].push_back(m);
  for (auto& [key, list] : by_stream) {
    auto copy = list;
    if (int result = put(copy[0].comm, key.second, [copy] { return run(copy); }, enqueue_op)) return result;
  }
  return SUCCESS;
}

// The first call of a communicator that does not block connects it, and returns before that is done.
int submit() {
  auto calls = std::move(collectives);
  auto all = std::move(messages);
  collectives.clear();
  messages.clear();
  std::set<std::shared_ptr<Comm>> lazy;
  std::set<u64> streams;
  auto look = [&](const std::shared_ptr<Comm>& comm, u64 stream) {
    streams.insert(stream);
    Stream* s = find_stream(stream);
    std::lock_guard<std::mutex> guard(state);
    if (!comm->blocking && !comm->connected && s && !s->capture) lazy.insert(comm);
    comm->connected = true;
  };
  for (auto& call : calls) look(call.comm, call.stream);
  for (auto& m : all) look(m.comm, m.stream);
  if (lazy.empty()) return put_all(calls, all, enqueue);
  for (auto& comm : lazy) comm->state = IN_PROGRESS;
  for (u64 handle : streams) {
    Stream* s = find_stream(handle);
    std::lock_guard<std::mutex> guard(state);
    if (s) s->reserved++;
  }
  int device = current_device;
  std::thread([=] {
    usleep(500);
    current_device = device;
    put_all(calls, all, enqueue_reserved);
    for (u64 handle : streams) {
      Stream* s = find_stream(handle);
      std::lock_guard<std::mutex> guard(state);
      if (s) s->reserved--;
    }
    for (auto& comm : lazy) {
      int connecting = IN_PROGRESS;
      comm->state.compare_exchange_strong(connecting, SUCCESS);
    }
  }).detach();
  return IN_PROGRESS;
}

int usable(const std::shared_ptr<Comm>& comm) {
  if (!comm) return fail(INVALID_ARGUMENT, "a communicator that does not exist, or no more");
  if (current_device < 0) return fail(CUDA_ERROR, "no current context");
  if (comm->state == IN_PROGRESS) return fail(INVALID_ARGUMENT, "a call while another one of the communicator is in progress");
  return comm->state;
}

int collective(int kind, u64 send, u64 recv, u64 count, int dtype, int op, int root, u64 handle, u64 stream) {
  auto comm = find(handle);
  if (int result = usable(comm)) return result;
  bool known = op < CUSTOM_OPS || (op - CUSTOM_OPS < int(comm->custom.size()) && comm->custom[size_t(op - CUSTOM_OPS)].dtype == dtype);
  if (dtype < 0 || dtype > 9 || op < 0 || !known || root < 0 || root >= comm->size) return fail(INVALID_ARGUMENT, "type %d, op %d, root %d", dtype, op, root);
  u64 bytes = count * bytes_of(dtype), all = bytes * u64(comm->size);
  u64 read = kind == REDUCE_SCATTER ? all : bytes, written = kind == ALL_GATHER ? all : bytes;
  bool reads = kind != BROADCAST || comm->rank == root, writes = kind != REDUCE || comm->rank == root;
  if (count > 0 && ((reads && !on_device(send, read)) || (writes && !on_device(recv, written)))) {
    return fail(INVALID_ARGUMENT, "%s of %llu elements leaves its allocation", KINDS[kind], (unsigned long long)count);
  }
  if ((reads && send % bytes_of(dtype)) || (writes && recv % bytes_of(dtype))) return fail(INVALID_ARGUMENT, "%s of elements that are not aligned", KINDS[kind]);
  collectives.push_back({comm, send, recv, count, stream, kind, dtype, op, root});
  return depth > 0 ? int(SUCCESS) : submit();
}

int message(bool send, u64 data, u64 count, int dtype, int peer, u64 handle, u64 stream) {
  auto comm = find(handle);
  if (int result = usable(comm)) return result;
  if (dtype < 0 || dtype > 11 || peer < 0 || peer >= comm->size) return fail(INVALID_ARGUMENT, "type %d, peer %d", dtype, peer);
  u64 bytes = count * bytes_of(dtype);
  if (count > 0 && !on_device(data, bytes)) return fail(INVALID_ARGUMENT, "a message of %llu elements leaves its allocation", (unsigned long long)count);
  messages.push_back({comm, data, bytes, stream, peer, dtype, send});
  return depth > 0 ? int(SUCCESS) : submit();
}

u64 add(std::shared_ptr<Comm> comm) {
  std::lock_guard<std::mutex> guard(lock_);
  u64 handle = reinterpret_cast<u64>(comm.get());
  comms[handle] = std::move(comm);
  return handle;
}

struct UniqueId { char bytes[128]; };

}  // namespace

API int ncclGetVersion(int* version) {
  *version = 22707;
  return SUCCESS;
}
API const char* ncclGetErrorString(int result) {
  switch (result) {
    case 0: return "no error";
    case 1: return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
    case 2: return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
    case 3: return "internal error - please report this issue to the NCCL developers";
    case 4: return "invalid argument (run with NCCL_DEBUG=WARN for details)";
    case 5: return "invalid usage (run with NCCL_DEBUG=WARN for details)";
    case 6: return "remote process exited or there was a network error";
    case 7: return "NCCL operation in progress";
    default: return "unknown result code";
  }
}
API const char* ncclGetLastError(u64) { return last_error; }
API int ncclGetUniqueId(UniqueId* id) {
  memset(id, 0, sizeof *id);
  snprintf(id->bytes, 64, "%s", fresh_name().c_str());
  for (int i = 64; i < 128; i++) id->bytes[i] = char(i * 37);  // to see whether all bytes arrive
  return SUCCESS;
}

API int ncclCommInitRankConfig(u64* out, int size, UniqueId id, int rank, const int* config) {
  if (current_device < 0) return fail(CUDA_ERROR, "no current context");
  for (int i = 64; i < 128; i++) if (id.bytes[i] != char(i * 37)) return fail(INVALID_ARGUMENT, "a unique id with other bytes than it was made with");
  if (size < 1 || size > MAX_RANKS || rank < 0 || rank >= size) return fail(INVALID_ARGUMENT, "rank %d of %d", rank, size);
  if (config && (unsigned(config[2]) != 0xcafebeef || config[0] < 48)) return fail(INVALID_ARGUMENT, "a config that was not initialised");
  auto comm = std::make_shared<Comm>();
  comm->size = size;
  comm->rank = rank;
  comm->device = physical_device(current_device);
  comm->name = id.bytes;
  comm->blocking = !config || config[4] != 0;
  *out = add(comm);
  if (comm->blocking) return comm->state = join(*comm);
  std::thread([comm] { comm->state = join(*comm); }).detach();
  return IN_PROGRESS;
}
API int ncclCommInitRank(u64* out, int size, UniqueId id, int rank) { return ncclCommInitRankConfig(out, size, id, rank, nullptr); }

API int ncclCommSplit(u64 handle, int color, int key, u64* out, const int*) {
  auto comm = find(handle);
  if (int result = usable(comm)) return result;
  *out = 0;
  auto child = std::make_shared<Comm>();
  child->blocking = comm->blocking;
  child->device = comm->device;
  if (color >= 0) *out = add(child);
  comm->state = IN_PROGRESS;
  auto work = [comm, child, color, key] {
    Comm& c = *comm;
    c.shared->color[c.rank] = color;
    c.shared->key[c.rank] = key;
    if (!meet(c, c.shared->host)) return int(REMOTE_ERROR);
    std::vector<std::pair<int, int>> members;
    for (int r = 0; r < c.size; r++) if (color >= 0 && c.shared->color[r] == color) members.push_back({c.shared->key[r], r});
    std::sort(members.begin(), members.end());
    bool leader = color >= 0 && members[0].second == c.rank;
    if (leader) snprintf(c.shared->child[c.rank], 64, "%s", fresh_name().c_str());
    if (!meet(c, c.shared->host)) return int(REMOTE_ERROR);
    if (color >= 0) {
      child->size = int(members.size());
      for (size_t i = 0; i < members.size(); i++) if (members[i].second == c.rank) child->rank = int(i);
      child->name = c.shared->child[members[0].second];
    }
    if (!meet(c, c.shared->host)) return int(REMOTE_ERROR);
    if (color >= 0) child->state = join(*child);
    return int(SUCCESS);
  };
  if (comm->blocking) return comm->state = work();
  std::thread([comm, work] { comm->state = work(); }).detach();
  return IN_PROGRESS;
}

API int ncclCommFinalize(u64 handle) {
  auto comm = find(handle);
  if (!comm) return INVALID_ARGUMENT;
  if (comm->state != SUCCESS) return comm->state;
  comm->state = IN_PROGRESS;
  std::thread([comm] {
    wait(*comm, [&] { return comm->running == 0; });
    comm->state = SUCCESS;
  }).detach();
  return comm->blocking ? SUCCESS : IN_PROGRESS;
}
static int drop(u64 handle, bool abort) {
  auto comm = find(handle);
  if (!comm) return fail(INVALID_ARGUMENT, "a communicator is destroyed that does not exist, or no more");
  if (abort) comm->aborted = true;
  {
    std::lock_guard<std::mutex> guard(lock_);
    comms.erase(handle);
  }
  for (int i = 0; comm->running > 0 && i < 200000; i++) usleep(50);
  return SUCCESS;
}
API int ncclCommDestroy(u64 handle) { return drop(handle, false); }
API int ncclCommAbort(u64 handle) { return drop(handle, true); }
API int ncclCommGetAsyncError(u64 handle, int* result) {
  auto comm = find(handle);
  if (!comm) return INVALID_ARGUMENT;
  *result = comm->state;
  return SUCCESS;
}
API int ncclCommCount(u64 handle, int* count) {
  auto comm = find(handle);
  if (!comm) return INVALID_ARGUMENT;
  *count = comm->size;
  return SUCCESS;
}
API int ncclCommUserRank(u64 handle, int* rank) {
  auto comm = find(handle);
  if (!comm) return INVALID_ARGUMENT;
  *rank = comm->rank;
  return SUCCESS;
}
API int ncclCommCuDevice(u64 handle, int* device) {
  auto comm = find(handle);
  if (!comm) return INVALID_ARGUMENT;
  *device = comm->device;
  return SUCCESS;
}

API int ncclRedOpCreatePreMulSum(int* op, const void* scalar, int dtype, int residence, u64 handle) {
  auto comm = find(handle);
  if (int result = usable(comm)) return result;
  if (numeric(dtype) < 0 || residence != 1) return fail(INVALID_ARGUMENT, "a factor of type %d, in place %d", dtype, residence);
  comm->custom.push_back({dtype, load(scalar, 0, numeric(dtype))});
  *op = CUSTOM_OPS + int(comm->custom.size()) - 1;
  return SUCCESS;
}
API int ncclRedOpDestroy(int op, u64 handle) {
  auto comm = find(handle);
  if (!comm || op < CUSTOM_OPS || op - CUSTOM_OPS >= int(comm->custom.size())) return INVALID_ARGUMENT;
  comm->custom[size_t(op - CUSTOM_OPS)].dtype = -1;
  return SUCCESS;
}

API int ncclAllReduce(u64 send, u64 recv, u64 count, int dtype, int op, u64 comm, u64 stream) {
  return collective(ALL_REDUCE, send, recv, count, dtype, op, 0, comm, stream);
}
API int ncclReduce(u64 send, u64 recv, u64 count, int dtype, int op, int root, u64 comm, u64 stream) {
  return collective(REDUCE, send, recv, count, dtype, op, root, comm, stream);
}
API int ncclBroadcast(u64 send, u64 recv, u64 count, int dtype, int root, u64 comm, u64 stream) {
  return collective(BROADCAST, send, recv, count, dtype, 0, root, comm, stream);
}
API int ncclAllGather(u64 send, u64 recv, u64 count, int dtype, u64 comm, u64 stream) {
  return collective(ALL_GATHER, send, recv, count, dtype, 0, 0, comm, stream);
}
API int ncclReduceScatter(u64 send, u64 recv, u64 count, int dtype, int op, u64 comm, u64 stream) {
  return collective(REDUCE_SCATTER, send, recv, count, dtype, op, 0, comm, stream);
}
API int ncclSend(u64 data, u64 count, int dtype, int peer, u64 comm, u64 stream) { return message(true, data, count, dtype, peer, comm, stream); }
API int ncclRecv(u64 data, u64 count, int dtype, int peer, u64 comm, u64 stream) { return message(false, data, count, dtype, peer, comm, stream); }
API int ncclGroupStart() {
  depth++;
  return SUCCESS;
}
API int ncclGroupEnd() {
  if (depth == 0) return fail(INVALID_USAGE, "the end of a group that was not begun");
  return --depth > 0 ? int(SUCCESS) : submit();
}

API int ncclMemAlloc(u64* out, u64 bytes) { return allocate(out, bytes) == OK ? SUCCESS : CUDA_ERROR; }
API int ncclMemFree(u64 address) { return release(address) == OK ? SUCCESS : CUDA_ERROR; }
API int ncclCommRegister(u64 comm, u64 address, u64 bytes, u64* handle) {
  if (!find(comm) || !on_device(address, bytes)) return INVALID_ARGUMENT;
  *handle = 1;
  return SUCCESS;
}
API int ncclCommDeregister(u64 comm, u64) { return find(comm) ? SUCCESS : INVALID_ARGUMENT; }
