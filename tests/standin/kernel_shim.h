// CUDA C for a C++ compiler: one fiber per CUDA thread, one block at a time. Put before every kernel text by nvrtc.cpp.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tuple>
#include <utility>
#include <vector>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __constant__ static
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ thread_local  // inside a function it is static; dynamic arrays are rewritten by nvrtc.cpp
#define threadIdx (shim::current->tid)
#define blockIdx (shim::block)
#define blockDim (shim::block_dim)
#define gridDim (shim::grid_dim)
#define warpSize 32

struct uint3 { unsigned x, y, z; };
#define SHIM_VECTOR(type, name) \
  struct alignas(2 * sizeof(type)) name##2 { type x, y; }; \
  struct name##3 { type x, y, z; }; \
  struct alignas(4 * sizeof(type) > 16 ? 16 : 4 * sizeof(type)) name##4 { type x, y, z, w; }; \
  static inline name##2 make_##name##2(type x, type y) { return {x, y}; } \
  static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
SHIM_VECTOR(float, float)
SHIM_VECTOR(int, int)
SHIM_VECTOR(signed char, char)
SHIM_VECTOR(unsigned char, uchar)
SHIM_VECTOR(short, short)
SHIM_VECTOR(unsigned short, ushort)
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) double2 { double x, y; };
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace shim {

struct Barrier { int arrived = 0; unsigned generation = 0; };
struct Fiber { void* sp; uint3 tid; int lane; bool done; Barrier* waits; unsigned generation; char* stack; };
static thread_local Fiber* current;
static thread_local void* scheduler;
static thread_local uint3 block, block_dim, grid_dim;
static thread_local Barrier whole;
static thread_local Barrier warps[32][32];  // by warp, and by the lowest lane of the mask
static thread_local uint64_t slots[1024];
static thread_local int alive, threads;
static thread_local unsigned live_lanes[32];
static thread_local bool misaligned;
constexpr size_t SHARED = 232448, CANARY = 256;
static thread_local char dynamic_shared[SHARED + CANARY] __attribute__((aligned(128)));

extern "C" void shim_switch(void** save, void* to) asm("shim_switch") __attribute__((visibility("hidden")));
asm(".text\n.hidden shim_switch\nshim_switch:\n"
#if defined(__x86_64__)
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\nmov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
#elif defined(__aarch64__)
    "sub sp,sp,#160\nstp x19,x20,[sp]\nstp x21,x22,[sp,#16]\nstp x23,x24,[sp,#32]\nstp x25,x26,[sp,#48]\n"
    "stp x27,x28,[sp,#64]\nstp x29,x30,[sp,#80]\nstp d8,d9,[sp,#96]\nstp d10,d11,[sp,#112]\nstp d12,d13,[sp,#128]\n"
    "stp d14,d15,[sp,#144]\nmov x9,sp\nstr x9,[x0]\nmov sp,x1\n"
    "ldp x19,x20,[sp]\nldp x21,x22,[sp,#16]\nldp x23,x24,[sp,#32]\nldp x25,x26,[sp,#48]\nldp x27,x28,[sp,#64]\n"
    "ldp x29,x30,[sp,#80]\nldp d8,d9,[sp,#96]\nldp d10,d11,[sp,#112]\nldp d12,d13,[sp,#128]\nldp d14,d15,[sp,#144]\n"
    "add sp,sp,#160\nret\n"
#else
#error "the stand-in's fibers know x86_64 and aarch64"
#endif
);

static inline void let_go(Barrier& b, int needed) {
  if (b.arrived && b.arrived >= needed) {
    b.arrived = 0;
    b.generation++;
  }
}

static inline void meet(Barrier& b, int needed) {
  Fiber* f = current;
  f->waits = &b;
  f->generation = b.generation;
  b.arrived++;
  let_go(b, needed);
  if (b.generation == f->generation) shim_switch(&f->sp, scheduler);  // resumed once the generation has moved on
  f->waits = nullptr;
}

static inline unsigned lanes_of(unsigned mask) { return mask & live_lanes[current->lane >> 5]; }
static inline void meet_lanes(unsigned mask) {
  int warp = current->lane >> 5;
  meet(warps[warp][__builtin_ctz(mask)], __builtin_popcount(lanes_of(mask)));
}

// The value of lane `from` of the own warp; a lane that does not exist gives poison (NaN).
template <class T> static inline T shuffle(unsigned mask, T value, int from) {
  static_assert(sizeof(T) <= 8);
  int me = current->lane, source = (me & ~31) + (from & 31);
  T result;
  memcpy(&slots[me], &value, sizeof value);
  meet_lanes(mask);
  if (source < threads && (mask >> (from & 31) & 1)) memcpy(&result, &slots[source], sizeof result);
  else memset(&result, 0xff, sizeof result);
  meet_lanes(mask);
  return result;
}

static thread_local void* entry_argument;
static thread_local void (*entry)(void*);
static void trampoline() {
  for (;;) {
    entry(entry_argument);
    Fiber* f = current;
    f->done = true;
    alive--;
    int warp = f->lane >> 5;
    live_lanes[warp] &= ~(1u << (f->lane & 31));
    let_go(whole, alive);
    let_go(warps[warp][0], __builtin_popcount(live_lanes[warp]));  // a full mask counts the lanes that still run
    shim_switch(&f->sp, scheduler);
  }
}

static inline void spawn(Fiber& f) {
  constexpr size_t bytes = 64 << 10;
  if (!f.stack) {
    f.stack = (char*)mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  uintptr_t* top = (uintptr_t*)(f.stack + bytes);
#if defined(__x86_64__)
  *--top = 0;
  *--top = (uintptr_t)trampoline;
  for (int i = 0; i < 6; i++) *--top = 0;
#else
  top -= 20;
  memset(top, 0, 160);
  top[11] = (uintptr_t)trampoline;
#endif
  f.sp = top;
  f.done = false;
  f.waits = nullptr;
}

template <bool SYNC, class Body> int run(uint3 grid, uint3 dim, unsigned shared_bytes, Body body) {
  static thread_local std::vector<Fiber> fibers(1024);
  int n = dim.x * dim.y * dim.z;
  block_dim = dim;
  grid_dim = grid;
  misaligned = false;
  for (unsigned z = 0; z < grid.z; z++) for (unsigned y = 0; y < grid.y; y++) for (unsigned x = 0; x < grid.x; x++) {
    block = {x, y, z};
    memset(dynamic_shared, 0xff, shared_bytes);
    memset(dynamic_shared + shared_bytes, 0xa5, CANARY);
    for (int i = 0; i < n; i++) {
      fibers[i].lane = i;
      fibers[i].tid = {i % dim.x, i / dim.x % dim.y, i / (dim.x * dim.y)};
    }
    if constexpr (!SYNC) {
      for (int i = 0; i < n; i++) {
        current = &fibers[i];
        body();
      }
    } else {
      alive = threads = n;
      whole = {};
      for (int w = 0; w < 32; w++) {
        for (auto& b : warps[w]) b = {};
        int lanes = n - w * 32;
        live_lanes[w] = lanes <= 0 ? 0 : lanes >= 32 ? ~0u : (1u << lanes) - 1;
      }
      entry_argument = &body;
      entry = [](void* p) { (*(Body*)p)(); };
      for (int i = 0; i < n; i++) spawn(fibers[i]);
      while (alive) {
        bool moved = false;
        for (int i = 0; i < n; i++) {
          Fiber& f = fibers[i];
          if (f.done || (f.waits && f.waits->generation == f.generation)) continue;
          moved = true;
          current = &f;
          shim_switch(&scheduler, f.sp);
        }
        if (!moved) {
          fprintf(stderr, "stand-in (719): %d threads of block (%u,%u,%u) wait at a barrier that the others never reach\n",
                  alive, x, y, z);
          return 719;
        }
      }
    }
    for (size_t i = 0; i < CANARY; i++) {
      if ((unsigned char)dynamic_shared[shared_bytes + i] == 0xa5) continue;
      fprintf(stderr, "stand-in (700): a kernel wrote past its %u bytes of dynamic shared memory\n", shared_bytes);
      return 700;
    }
    if (misaligned) {
      fprintf(stderr, "stand-in (716): a kernel read or wrote at an address that its type is not aligned to\n");
      return 716;
    }
  }
  return 0;
}

struct Info { int count; const uint32_t* sizes; int (*run)(uint3, uint3, unsigned, void**); unsigned bound; };
template <bool SYNC, unsigned BOUND, auto K> struct Kernel;
template <bool SYNC, unsigned BOUND, class... A, void (*K)(A...)> struct Kernel<SYNC, BOUND, K> {
  static_assert((sizeof(A) + ... + 0) <= 4096, "Formal parameter space overflowed (max 4096 bytes allowed)");
  static constexpr uint32_t sizes[sizeof...(A) + 1] = {sizeof(A)..., 0};
  template <size_t... I> static int go(uint3 g, uint3 b, unsigned s, void** p, std::index_sequence<I...>) {
    return run<SYNC>(g, b, s, [&] { K(*(A*)p[I]...); });
  }
  static int launch(uint3 g, uint3 b, unsigned s, void** p) { return go(g, b, s, p, std::index_sequence_for<A...>()); }
  static constexpr Info info{sizeof...(A), sizes, launch, BOUND};
};

}  // namespace shim

// Called where the compiler's check finds an address that its type is not aligned to.
extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_type_mismatch_v1(void*, void*) { shim::misaligned = true; }
#define SHIM_EXPORT(k, sync, bound) \
  extern "C" __attribute__((visibility("default"))) const shim::Info* shim_info_##k() { return &shim::Kernel<sync, bound, k>::info; }

static inline void __syncthreads() { shim::meet(shim::whole, shim::alive); }
static inline void __syncwarp(unsigned mask = ~0u) { shim::meet_lanes(mask); }
static inline int shim_lane() { return shim::current->lane & 31; }
template <class T> static inline T __shfl_sync(unsigned m, T v, int from, int width = 32) {
  return shim::shuffle(m, v, (shim_lane() & ~(width - 1)) + (from & (width - 1)));
}
template <class T> static inline T __shfl_xor_sync(unsigned m, T v, int mask, int width = 32) {
  int from = shim_lane() ^ mask;
  return shim::shuffle(m, v, (from & ~(width - 1)) == (shim_lane() & ~(width - 1)) ? from : shim_lane());
}
template <class T> static inline T __shfl_down_sync(unsigned m, T v, int delta, int width = 32) {
  int at = shim_lane() & (width - 1);
  return shim::shuffle(m, v, at + delta < width ? shim_lane() + delta : shim_lane());
}
template <class T> static inline T __shfl_up_sync(unsigned m, T v, int delta, int width = 32) {
  int at = shim_lane() & (width - 1);
  return shim::shuffle(m, v, at >= delta ? shim_lane() - delta : shim_lane());
}
static inline unsigned __activemask() { return shim::live_lanes[shim::current->lane >> 5]; }
static inline unsigned __ballot_sync(unsigned m, int yes) {
  unsigned lanes = shim::lanes_of(m), result = 0;
  for (int lane = 0; lane < 32; lane++) {
    if (lanes >> lane & 1) result |= unsigned(shim::shuffle(m, yes != 0, lane)) << lane;
  }
  return result;
}
static inline int __any_sync(unsigned m, int yes) { return __ballot_sync(m, yes) != 0; }
static inline int __all_sync(unsigned m, int yes) { return __ballot_sync(m, !yes) == 0; }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __nanosleep(unsigned) { usleep(20); }
static inline long long clock64() {  // nanoseconds: the device says that its clock makes 1 GHz
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

template <class T> static inline T shim_exchange(T* p, T v) { T old = *p; *p = v; return old; }
template <class T> static inline T atomicAdd(T* p, T v) { return shim_exchange(p, T(*p + v)); }  // blocks run one at a time
template <class T> static inline T atomicMax(T* p, T v) { return shim_exchange(p, *p > v ? *p : v); }
template <class T> static inline T atomicMin(T* p, T v) { return shim_exchange(p, *p < v ? *p : v); }
template <class T> static inline T atomicExch(T* p, T v) { return shim_exchange(p, v); }
template <class T> static inline T atomicOr(T* p, T v) { return shim_exchange(p, T(*p | v)); }
template <class T> static inline T atomicCAS(T* p, T was, T v) { return shim_exchange(p, *p == was ? v : *p); }
template <class T> static inline T __ldg(const T* p) { return *p; }
template <class T> static inline T __ldcs(const T* p) { return *p; }

// The C library declares some of these names itself, so they are macros.
#define __expf expf
#define __logf logf
#define __log2f log2f
#define __sinf sinf
#define __cosf cosf
#define __powf powf
#define exp2f shim_exp2f
#define __fdividef(a, b) ((a) / (b))
#define __fmaf_rn(a, b, c) fmaf(a, b, c)
#define __frcp_rn(a) (1.f / (a))
#define __frsqrt_rn rsqrtf
static inline float shim_exp2f(float x) { return powf(2.f, x); }
static inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
static inline float __uint_as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }
static inline unsigned __float_as_uint(float f) { unsigned u; memcpy(&u, &f, 4); return u; }
static inline float __int_as_float(int u) { float f; memcpy(&f, &u, 4); return f; }
static inline int __float_as_int(float f) { int u; memcpy(&u, &f, 4); return u; }
static inline double __longlong_as_double(long long u) { double f; memcpy(&f, &u, 8); return f; }
static inline long long __double_as_longlong(double f) { long long u; memcpy(&u, &f, 8); return u; }
static inline int __float2int_rn(float f) { return (int)rintf(f); }
static inline int __float2int_rz(float f) { return (int)f; }
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz((unsigned)v); }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline float __saturatef(float x) { return x < 0 ? 0 : x > 1 ? 1 : x; }
static inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; i++) c += int((signed char)(a >> 8 * i)) * int((signed char)(b >> 8 * i));
  return c;
}
template <class T> static inline T min(T a, T b) { return b < a ? b : a; }
template <class T> static inline T max(T a, T b) { return a < b ? b : a; }
static inline unsigned umin(unsigned a, unsigned b) { return b < a ? b : a; }
