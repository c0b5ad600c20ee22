// Streams, events, and graphs by capture.
#include <atomic>
#include <chrono>
#include <map>
#include "state.h"

namespace standin {

std::mutex& state = *new std::mutex;
std::condition_variable& changed = *new std::condition_variable;
std::atomic<int> sticky{0};

namespace {

struct Event {
  int device = -1;
  u64 recorded = 0, reached = 0;
  double time = 0;
  bool timing = false;
  std::shared_ptr<Capture> capture;  // recorded while capturing: means nothing outside of it
  Stream* captured_in = nullptr;
};

auto& streams = *new std::set<Stream*>;
auto& events = *new std::map<u64, std::shared_ptr<Event>>;
auto& graphs = *new std::map<u64, std::vector<Op>>;
auto& executables = *new std::map<u64, std::shared_ptr<const std::vector<Op>>>;
u64 next_handle = 0x10000;
int captures = 0;
auto& guarded = *new std::map<std::thread::id, std::shared_ptr<Capture>>;  // by thread, unless it captures in relaxed mode
using Lock = std::unique_lock<std::mutex>;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void work(Stream* stream) {
  for (;;) {
    Op op;
    {
      Lock lock(state);
      changed.wait(lock, [&] { return stream->stop || !stream->queue.empty(); });
      if (stream->queue.empty()) return;
      op = std::move(stream->queue.front());
      stream->queue.pop_front();
    }
    if (!sticky) {  // after an error nothing runs any more
      int status = op();
      int none = 0;
      if (status != OK) sticky.compare_exchange_strong(none, status);
    }
    {
      Lock lock(state);
      stream->popped++;
    }
    changed.notify_all();
  }
}

Stream* make_stream() {
  auto* stream = new Stream;
  stream->thread = std::thread(work, stream);
  return stream;
}

Stream* legacy_stream() {
  static Stream* stream = make_stream();
  return stream;
}

// With `state` held.
int push(Stream* stream, Op op, bool reserved) {
  if (stream->capture) {
    if (stream->capture->invalid) return CAPTURE_INVALIDATED;
    stream->capture->ops.push_back(std::move(op));
    if (stream != stream->capture->origin) stream->capture->unjoined.insert(stream);
    return OK;
  }
  if (captures > 0 && stream == legacy_stream()) return CAPTURE_IMPLICIT;
  if (stream->reserved > 0 && !reserved) {
    return complain(NOT_PERMITTED, "work for a stream on which a NCCL call is still in progress");
  }
  stream->queue.push_back(std::move(op));
  stream->pushed++;
  return OK;
}

std::shared_ptr<Event> find_event(u64 handle) {
  auto found = events.find(handle);
  return found == events.end() ? nullptr : found->second;
}

}  // namespace

Stream* find_stream(u64 handle) {
  if (handle == 0) return legacy_stream();
  Lock lock(state);
  auto* stream = reinterpret_cast<Stream*>(handle);
  return streams.count(stream) ? stream : nullptr;
}

bool stream_is_of(u64 handle, int device) {
  Stream* stream = find_stream(handle);
  return !stream || handle == 0 || stream->device == device;
}

static int enqueue_as(u64 handle, Op op, bool reserved) {
  Stream* stream = find_stream(handle);
  if (!stream) return complain(INVALID_HANDLE, "work for a stream that does not exist");
  {
    Lock lock(state);
    if (int status = push(stream, std::move(op), reserved)) return status;
  }
  changed.notify_all();
  return OK;
}

int enqueue(u64 handle, Op op) { return enqueue_as(handle, std::move(op), false); }
int enqueue_reserved(u64 handle, Op op) { return enqueue_as(handle, std::move(op), true); }

bool capturing() {
  Lock lock(state);
  auto found = guarded.find(std::this_thread::get_id());
  if (found == guarded.end()) return false;
  found->second->invalid = true;
  return complain(CAPTURE_UNSUPPORTED, "a call that may allocate or wait, while this thread captures") != OK;
}

bool idle() {
  static bool yes = [] {
    const char* text = getenv("SHARDWISE_STANDIN_IDLE");
    return text && std::string(text) == "1";
  }();
  return yes;
}

void drain(Stream* stream) {
  Lock lock(state);
  u64 target = stream->pushed;
  changed.wait(lock, [&] { return stream->popped >= target; });
}

void drain_all() {
  std::vector<Stream*> all{legacy_stream()};
  {
    Lock lock(state);
    all.insert(all.end(), streams.begin(), streams.end());
  }
  for (auto* stream : all) drain(stream);
}

}  // namespace standin

using namespace standin;

API int cuStreamCreateWithPriority(u64* out, unsigned flags, int) {
  NEEDS_CONTEXT;
  if (flags > 1) return INVALID_VALUE;
  auto* stream = make_stream();
  stream->device = current_device;
  Lock lock(state);
  streams.insert(stream);
  *out = reinterpret_cast<u64>(stream);
  return OK;
}

API int cuStreamDestroy_v2(u64 handle) {
  Stream* stream = handle == 0 ? nullptr : find_stream(handle);
  if (!stream) return complain(INVALID_HANDLE, "a stream is destroyed that does not exist");
  {
    Lock lock(state);
    streams.erase(stream);
    stream->stop = true;
  }
  changed.notify_all();
  std::thread([stream] { stream->thread.join(); delete stream; }).detach();  // the driver does not wait either
  return OK;
}

API int cuStreamSynchronize(u64 handle) {
  NEEDS_CONTEXT;
  Stream* stream = find_stream(handle);
  if (!stream) return INVALID_HANDLE;
  {
    Lock lock(state);
    if (stream->capture) {
      stream->capture->invalid = true;
      return CAPTURE_UNSUPPORTED;
    }
  }
  drain(stream);
  return sticky;
}

API int cuStreamQuery(u64 handle) {
  NEEDS_CONTEXT;
  Stream* stream = find_stream(handle);
  if (!stream) return INVALID_HANDLE;
  Lock lock(state);
  if (stream->capture) {
    stream->capture->invalid = true;
    return CAPTURE_UNSUPPORTED;
  }
  return stream->popped < stream->pushed ? int(NOT_READY) : int(sticky);
}

API int cuStreamWaitEvent(u64 handle, u64 event_handle, unsigned flags) {
  NEEDS_CONTEXT;
  Stream* stream = find_stream(handle);
  if (!stream || flags != 0) return stream ? INVALID_VALUE : INVALID_HANDLE;
  Lock lock(state);
  auto event = find_event(event_handle);
  if (!event) return INVALID_HANDLE;
  if (event->capture) {
    if (stream->capture && stream->capture != event->capture) return CAPTURE_ISOLATION;
    stream->capture = event->capture;  // the stream forks from the capture, or the event's stream joins it again
    event->capture->unjoined.erase(event->captured_in);
    if (stream != event->capture->origin) event->capture->unjoined.insert(stream);
    return OK;
  }
  if (stream->capture) {
    stream->capture->invalid = true;
    return complain(CAPTURE_ISOLATION, "a capturing stream waits for an event of work that is not captured");
  }
  u64 wanted = event->recorded;
  int status = push(stream, [event, wanted] {
    Lock inner(state);
    changed.wait(inner, [&] { return event->reached >= wanted; });
    return int(OK);
  }, false);
  lock.unlock();
  changed.notify_all();
  return status;
}

API int cuEventCreate(u64* out, unsigned flags) {
  NEEDS_CONTEXT;
  Lock lock(state);
  auto event = std::make_shared<Event>();
  event->timing = !(flags & 2);
  event->device = current_device;
  *out = next_handle++;
  events[*out] = event;
  return OK;
}

API int cuEventDestroy_v2(u64 handle) {
  Lock lock(state);
  return events.erase(handle) ? OK : INVALID_HANDLE;
}

API int cuEventRecord(u64 handle, u64 stream_handle) {
  NEEDS_CONTEXT;
  Stream* stream = find_stream(stream_handle);
  Lock lock(state);
  auto event = find_event(handle);
  if (!event || !stream) return INVALID_HANDLE;
  if (stream_handle != 0 && event->device != stream->device) return complain(INVALID_HANDLE, "an event is recorded in a stream of another context");
  if (stream->capture) {
    event->capture = stream->capture;
    event->captured_in = stream;
    return OK;
  }
  event->capture = nullptr;
  u64 number = ++event->recorded;
  int status = push(stream, [event, number] {
    Lock inner(state);
    if (number > event->reached) event->reached = number;
    event->time = now();
    return int(OK);
  }, false);
  lock.unlock();
  changed.notify_all();
  return status;
}

API int cuEventQuery(u64 handle) {
  NEEDS_CONTEXT;
  Lock lock(state);
  auto event = find_event(handle);
  if (!event) return INVALID_HANDLE;
  if (event->capture) return CAPTURED_EVENT;
  return event->reached < event->recorded ? NOT_READY : OK;
}

API int cuEventSynchronize(u64 handle) {
  NEEDS_CONTEXT;
  Lock lock(state);
  auto event = find_event(handle);
  if (!event) return INVALID_HANDLE;
  if (event->capture) return CAPTURED_EVENT;
  changed.wait(lock, [&] { return event->reached >= event->recorded; });
  return sticky;
}

API int cuEventElapsedTime(float* ms, u64 start, u64 end) {
  Lock lock(state);
  auto a = find_event(start), b = find_event(end);
  if (!a || !b || !a->timing || !b->timing || a->recorded == 0 || b->recorded == 0) return INVALID_HANDLE;
  if (a->reached < a->recorded || b->reached < b->recorded) return NOT_READY;
  *ms = float((b->time - a->time) * 1e3);
  return OK;
}

API int cuStreamBeginCapture_v2(u64 handle, int mode) {
  NEEDS_CONTEXT;
  if (handle == 0) return CAPTURE_IMPLICIT;
  Stream* stream = find_stream(handle);
  if (!stream || mode < 0 || mode > 2) return stream ? INVALID_VALUE : INVALID_HANDLE;
  Lock lock(state);
  if (stream->capture) return CAPTURE_UNMATCHED;
  stream->capture = std::make_shared<Capture>();
  stream->capture->origin = stream;
  captures++;
  if (mode != 2) guarded[stream->capture->thread = std::this_thread::get_id()] = stream->capture;
  return OK;
}

API int cuStreamEndCapture(u64 handle, u64* graph) {
  NEEDS_CONTEXT;
  Stream* stream = find_stream(handle);
  if (!stream) return INVALID_HANDLE;
  Lock lock(state);
  *graph = 0;
  auto capture = stream->capture;
  if (!capture || capture->origin != stream) return CAPTURE_UNMATCHED;
  if (capture->thread != std::thread::id() && capture->thread != std::this_thread::get_id()) return CAPTURE_WRONG_THREAD;
  for (auto* other : streams) {
    if (other->capture == capture) other->capture = nullptr;
  }
  captures--;
  std::erase_if(guarded, [&](auto& entry) { return entry.second == capture; });
  if (capture->invalid) return CAPTURE_INVALIDATED;
  if (!capture->unjoined.empty()) return complain(CAPTURE_UNJOINED, "a forked stream was not joined before the capture's end");
  *graph = next_handle++;
  graphs[*graph] = std::move(capture->ops);
  return OK;
}

API int cuStreamIsCapturing(u64 handle, int* status) {
  NEEDS_CONTEXT;
  Stream* stream = find_stream(handle);
  if (!stream) return INVALID_HANDLE;
  Lock lock(state);
  *status = !stream->capture ? 0 : stream->capture->invalid ? 2 : 1;
  return OK;
}

API int cuGraphInstantiateWithFlags(u64* executable, u64 graph, u64) {
  NEEDS_CONTEXT;
  Lock lock(state);
  auto found = graphs.find(graph);
  if (found == graphs.end()) return INVALID_VALUE;
  *executable = next_handle++;
  executables[*executable] = std::make_shared<const std::vector<Op>>(found->second);
  return OK;
}

API int cuGraphExecUpdate_v2(u64 executable, u64 graph, int* info) {
  NEEDS_CONTEXT;
  Lock lock(state);
  auto to = executables.find(executable);
  auto from = graphs.find(graph);
  if (to == executables.end() || from == graphs.end() || !info) return INVALID_VALUE;
  bool fits = to->second->size() == from->second.size();
  memset(info, 0, 24);
  info[0] = fits ? 0 : 2;  // CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED
  if (!fits) return complain(GRAPH_EXEC_UPDATE_FAILURE, "a graph of %zu nodes is updated to one of %zu", to->second->size(), from->second.size());
  to->second = std::make_shared<const std::vector<Op>>(from->second);
  return OK;
}

API int cuGraphUpload(u64 executable, u64 stream) {
  NEEDS_CONTEXT;
  Lock lock(state);
  return executables.count(executable) ? OK : INVALID_VALUE;
}

API int cuGraphLaunch(u64 executable, u64 handle) {
  NEEDS_CONTEXT;
  Stream* stream = find_stream(handle);
  Lock lock(state);
  auto found = executables.find(executable);
  if (found == executables.end() || !stream) return found == executables.end() ? INVALID_VALUE : INVALID_HANDLE;
  if (stream->capture) {
    stream->capture->invalid = true;
    return complain(CAPTURE_UNSUPPORTED, "a graph is launched in a stream that captures");
  }
  // One thing in the stream, so that a launch costs as little as a real one does.
  int status = push(stream, [ops = found->second] {
    for (auto& op : *ops) {
      if (int status = op()) return status;
    }
    return int(OK);
  }, false);
  lock.unlock();
  changed.notify_all();
  return status;
}

API int cuGraphDestroy(u64 graph) {
  Lock lock(state);
  return graphs.erase(graph) ? OK : INVALID_VALUE;
}

API int cuGraphExecDestroy(u64 executable) {
  Lock lock(state);
  return executables.erase(executable) ? OK : INVALID_VALUE;
}
