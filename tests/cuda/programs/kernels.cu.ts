/** CUDA C for tests: kernels that are right, and kernels that are wrong in ways that a GPU may not report. */

/** A chain of elementwise ops, a row reduction with shuffles and shared memory, and every way of `__shfl`. */
export const KERNELS = `
typedef unsigned int u32;
extern "C" __global__ void sw_scale(float* y, const float* x, float factor, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) y[i] = x[i] * factor;
}
extern "C" __global__ void __launch_bounds__(1024) sw_softmax(float* y, const float* x, int columns) {
  extern __shared__ float row[];
  __shared__ float part[32];
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
  float most = -3.0e38f;
  for (int c = threadIdx.x; c < columns; c += blockDim.x) {
    row[c] = x[(size_t)blockIdx.x * columns + c];
    most = fmaxf(most, row[c]);
  }
  for (int o = 16; o; o >>= 1) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, o));
  if (lane == 0) part[warp] = most;
  __syncthreads();
  for (int w = 0; w < warps; w++) most = fmaxf(most, part[w]);
  __syncthreads();
  float sum = 0.f;
  for (int c = threadIdx.x; c < columns; c += blockDim.x) sum += row[c] = __expf(row[c] - most);
  for (int o = 16; o; o >>= 1) sum += __shfl_down_sync(0xffffffffu, sum, o);
  if (lane == 0) part[warp] = sum;
  __syncthreads();
  sum = 0.f;
  for (int w = 0; w < warps; w++) sum += part[w];
  for (int c = threadIdx.x; c < columns; c += blockDim.x) y[(size_t)blockIdx.x * columns + c] = row[c] / sum;
}
extern "C" __global__ void sw_lanes(u32* y) {
  int lane = threadIdx.x;
  u32 even = __ballot_sync(0xffffffffu, lane % 2 == 0);
  int before = __shfl_up_sync(0xffffffffu, lane, 1, 8), first = __shfl_sync(0xffffffffu, lane, 0, 8), half = 0;
  if (lane < 16) half = __shfl_xor_sync(0x0000ffffu, lane, 15);
  y[lane] = even == 0x55555555u ? before * 10000 + first * 100 + half : 0;
}
`;

/** Each has one mistake, named after it. */
export const MISTAKES = `
extern "C" __global__ void sw_overrun(float* y, int n) { y[n + 4096] = 1.f; }
extern "C" __global__ void __launch_bounds__(64) sw_bounded(float* y) { y[threadIdx.x] = 1.f; }
extern "C" __global__ void sw_misaligned(char* y) { *(float*)(y + 1) = 1.f; }
extern "C" __global__ void sw_little_shared(float* y) { extern __shared__ float s[]; s[8] = 1.f; y[0] = s[8]; }
extern "C" __global__ void sw_divergent(float* y) {
  float v = 1.f;
  if (threadIdx.x & 1) v = __shfl_xor_sync(0xffffffffu, v, 2);
  __syncthreads();
  y[threadIdx.x] = v;
}
extern "C" __global__ void sw_partial_warp(float* y) {
  float v = 1.f;
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  y[threadIdx.x] = v;
}
`;
