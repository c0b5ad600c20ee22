// deno-lint-ignore-file no-console -- a program reports to its test by its output
// One mistake with the driver, named by the argument. Prints what it was answered as JSON: { call, code, later }.
import { Cublas, CUBLAS_ENUM } from "../../../src/ffi/cublas.ts";
import { CudaError } from "../../../src/ffi/cuda_error.ts";
import { CudaContext, CudaEvent, CudaStream, PeerMapping, PinnedMemory } from "../../../src/ffi/cuda_handles.ts";
import type { KernelCompileError } from "../../../src/ffi/nvrtc.ts";
import { Gpu } from "./gpu.ts";
import { KERNELS, MISTAKES } from "./kernels.cu.ts";

const gpu = new Gpu(), { driver, stream } = gpu;
/** `y` is freed by one of the mistakes. */
const y = gpu.alloc(4 * 64), z = gpu.alloc(4 * 64);
const kernel = (name: string) => gpu.compile(MISTAKES).function(name);
const run = (name: string, block: number, ...args: (bigint | number)[]) => {
  gpu.launch(kernel(name), { grid: 1, block }, ...args);
  stream.synchronize();
};

const MISTAKE: Readonly<Record<string, () => unknown>> = {
  "kernel past the end of its allocation": () => run("sw_overrun", 1, y.value, 64),
  "kernel at an address that is not aligned": () => run("sw_misaligned", 1, y.value),
  "kernel past its dynamic shared memory": () => {
    gpu.launch(kernel("sw_little_shared"), { grid: 1, block: 1, shared: 32 }, y.value);
    stream.synchronize();
  },
  "barrier that some threads never reach": () => run("sw_divergent", 32, y.value),
  "kernel on memory that was freed": () => {
    const address = gpu.alloc(4096);
    const value = address.value;
    address[Symbol.dispose]();
    run("sw_overrun", 1, value, -4096);
  },
  "a few bytes past the end, seen when it is freed": () => {
    const small = gpu.alloc(20);
    run("sw_overrun", 1, small.value + 20n, -4096);
    small[Symbol.dispose]();
  },
  "copy past the end of its allocation": () => driver.call.cuMemcpyDtoH_v2(new Uint8Array(512), y.value, 512n),
  "asynchronous copy from memory that is not pinned": () => {
    const page = new Uint8Array(256);
    const at = Deno.UnsafePointer.value(Deno.UnsafePointer.of(page));
    driver.call.cuMemcpyHtoDAsync_v2(y.value, BigInt(at), 256n, stream.value);
  },
  "memory freed twice": () => {
    driver.call.cuMemFree_v2(y.value);
    driver.call.cuMemFree_v2(y.value);
  },
  "launch of too many threads": () =>
    gpu.launch(gpu.compile(KERNELS).function("sw_lanes"), { grid: 1, block: 2048 }, y.value),
  "launch with too few arguments": () =>
    gpu.launch(gpu.compile(KERNELS).function("sw_scale"), { grid: 1, block: 1 }, y.value),
  "launch with more shared memory than was asked for": () =>
    gpu.launch(
      gpu.compile(KERNELS).function("sw_softmax"),
      { grid: 1, block: 1, shared: 100_000 },
      y.value,
      y.value,
      1,
    ),
  "synchronising while capturing": () => stream.capture(() => stream.synchronize()),
  "allocating while capturing": () => stream.capture(() => gpu.alloc(4)),
  "loading kernels while capturing": () => stream.capture(() => gpu.compile(KERNELS)),
  "a graph of memory that was freed since": () => {
    const x = gpu.alloc(4096), overrun = kernel("sw_overrun");
    const graph = stream.capture(() => gpu.launch(overrun, { grid: 1, block: 1 }, x.value, 0));
    x[Symbol.dispose]();
    graph.launch(stream);
    stream.synchronize();
  },
  "capture with a fork that is not joined": () => {
    const other = new CudaStream(driver), event = new CudaEvent(driver);
    stream.capture(() => {
      event.record(stream.value);
      other.waitFor(event);
      driver.call.cuMemsetD8Async(y.value, 0, 4n, other.value);
    });
  },
  "work for a stream that is gone": () => {
    const other = new CudaStream(driver), value = other.value;
    other[Symbol.dispose]();
    driver.call.cuMemsetD8Async(y.value, 0, 4n, value);
  },
  "launch of more threads than the kernel's bound": () => run("sw_bounded", 96, z.value),
  "launch of a kernel of another context": () => {
    const scale = kernel("sw_overrun");
    try {
      new CudaContext(driver, 1).makeCurrent();
      gpu.launch(scale, { grid: 1, block: 1 }, z.value, -4096);
    } finally {
      gpu.context.makeCurrent();
    }
  },
  "recording an event in a stream of another context": () => {
    try {
      new CudaContext(driver, 1).makeCurrent();
      const event = new CudaEvent(driver);
      event.record(stream.value);
    } finally {
      gpu.context.makeCurrent();
    }
  },
  "launching a graph while capturing": () => {
    const graph = stream.capture(() => driver.call.cuMemsetD8Async(z.value, 0, 4n, stream.value));
    stream.capture(() => graph.launch(stream));
  },
  "freeing pinned memory while capturing": () => {
    const pinned = gpu.pinned(64);
    stream.capture(() => pinned[Symbol.dispose]());
  },
  "copying while capturing": () => stream.capture(() => driver.call.cuMemcpyHtoD_v2(z.value, new Uint8Array(4), 4n)),
  "a product without a leading dimension": () => multiply({ n: 4, ld: 0 }),
  "a product of no columns without a leading dimension": () => multiply({ n: 0, ld: 0 }),
  "a product without a matrix": () => multiply({ n: 4, ld: 4, a: 0n }),
  "an update of a graph to another topology": () => {
    const set = () => driver.call.cuMemsetD8Async(z.value, 0, 4n, stream.value);
    const one = stream.capture(set);
    driver.call.cuStreamBeginCapture_v2(stream.value, 1);
    set();
    set();
    const graph = new BigUint64Array(1);
    driver.call.cuStreamEndCapture(stream.value, graph);
    driver.call.cuGraphExecUpdate_v2(one.value, graph[0]!, new Uint8Array(24));
  },
  "opening a memory handle in the process that made it": () => new PeerMapping(driver, z.exported()),
  "exporting memory that is not allocated": () => driver.call.cuIpcGetMemHandle(new Uint8Array(64), 4096n),
  "closing memory that is not open": () => driver.call.cuIpcCloseMemHandle(z.value),
  "no current context": () => {
    driver.call.cuCtxSetCurrent(0n);
    gpu.alloc(16);
  },
};

/** A product of 4 rows by cuBLAS. */
function multiply({ n, ld, a = z.value }: { readonly n: number; readonly ld: number; readonly a?: bigint }): void {
  const cublas = new Cublas(gpu.libraries), handle = cublas.create(), one = Float32Array.of(1);
  const { CUDA_R_32F: type, CUBLAS_COMPUTE_32F: compute } = CUBLAS_ENUM;
  const matrices = [one, a, type, ld, z.value, type, 4, one, z.value, type, 4] as const;
  cublas.call.cublasGemmEx(handle.value, 0, 0, 4, n, 4, ...matrices, compute, -1);
}

if (Deno.args[0] === "--list") {
  console.log(JSON.stringify(Object.keys(MISTAKE)));
} else if (Deno.args[0] === "arguments") {
  try {
    gpu.compile('struct P { char bytes[4097]; };\nextern "C" __global__ void k(P p) {}');
  } catch (error) {
    const { name, message, log } = error as KernelCompileError;
    console.log(`${name}: ${message}\n${log}`);
  }
} else if (Deno.args[0] === "peers") {
  // Calls that the product has no use for: opening a handle enables access by itself.
  const { symbols } = Deno.dlopen(driver.path, {
    cuCtxEnablePeerAccess: { parameters: ["u64", "u32"], result: "i32" },
    cuCtxDisablePeerAccess: { parameters: ["u64"], result: "i32" },
  });
  const other = new CudaContext(driver, 1).value, own = gpu.context.value, can = new Int32Array(2);
  gpu.context.makeCurrent();
  driver.call.cuDeviceCanAccessPeer(can, 0, 1);
  driver.call.cuDeviceCanAccessPeer(can.subarray(1), 0, 0);
  const enable = (context: bigint, flags = 0) => symbols.cuCtxEnablePeerAccess(context, flags);
  const disable = () => symbols.cuCtxDisablePeerAccess(other);
  console.log(
    JSON.stringify([...can, enable(other), enable(other), enable(own), enable(other, 1), disable(), disable()]),
  );
} else if (Deno.args[0] === "order") {
  // A copy on another stream, without and with an event; and a shuffle with lanes that are not there.
  const slow = gpu.compile(KERNELS).function("sw_scale"), other = new CudaStream(driver), event = new CudaEvent(driver);
  const n = 1 << 18,
    x = gpu.upload(new Float32Array(n).fill(2)),
    z = gpu.alloc(4 * n),
    host = new PinnedMemory(driver, 4);
  const read = (wait: boolean) => {
    driver.call.cuMemsetD8Async(z.value, 0, BigInt(4 * n), stream.value);
    stream.synchronize();
    gpu.launch(slow, { grid: 64, block: 128 }, z.value, x.value, { f32: 2 } as unknown as number, n);
    const busy = !stream.done();
    event.record(stream.value);
    if (wait) other.waitFor(event);
    driver.call.cuMemcpyDtoHAsync_v2(host.value, z.value + BigInt(4 * (n - 1)), 4n, other.value);
    other.synchronize();
    stream.synchronize();
    return { busy, value: new Float32Array(host.bytes.buffer)[0] };
  };
  // Where this process has to wait for a core, the kernel may be done before anybody looks, or between the look and the copy.
  const overtaking = (wait: boolean) => {
    const isTelling = ({ busy, value }: ReturnType<typeof read>) => busy && (wait || value === 0);
    let found = read(wait);
    for (let i = 0; i < 50 && !isTelling(found); i++) found = read(wait);
    return found;
  };
  const stale = overtaking(false), right = overtaking(true);
  run("sw_partial_warp", 24, y.value);
  console.log(JSON.stringify({ stale, right, partial: String(gpu.download(y, 1)[0]) }));
} else {
  const results: Record<string, unknown> = {};
  for (const name of Deno.args) results[name] = outcome(MISTAKE[name]!);
  console.log(JSON.stringify(results));
}
Deno.exit(0);

function outcome(mistake: () => unknown): unknown {
  try {
    mistake();
    return { call: "none", code: 0 };
  } catch (error) {
    if (!(error instanceof CudaError)) throw error;
    let later = 0;
    try {
      driver.call.cuCtxSynchronize();
    } catch (again) {
      later = (again as CudaError).code;
    }
    return { call: error.call, code: error.code, later, fatal: error.fatal };
  }
}
