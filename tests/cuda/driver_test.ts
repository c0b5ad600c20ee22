/** The driver, NVRTC and cuBLAS through src/ffi: what they do, and what the stand-in says of mistakes. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { cudaTest, standinTest } from "../support/standin.ts";

cudaTest(
  "kernels, streams, events, graphs, cuBLAS and cuBLASLt do what they must through the typed tables",
  async (env) => {
    assert.equal((await program("right.ts", env)).trim(), "right");
  },
);

/** What the driver must answer; `lost`: so does every later call. */
const ANSWERS: Readonly<Record<string, { readonly call: string; readonly code: number; readonly lost?: boolean }>> = {
  "kernel past the end of its allocation": { call: "cuStreamSynchronize", code: 700, lost: true },
  "kernel at an address that is not aligned": { call: "cuStreamSynchronize", code: 716, lost: true },
  "kernel past its dynamic shared memory": { call: "cuStreamSynchronize", code: 700, lost: true },
  "barrier that some threads never reach": { call: "cuStreamSynchronize", code: 719, lost: true },
  "kernel on memory that was freed": { call: "cuStreamSynchronize", code: 700, lost: true },
  "a few bytes past the end, seen when it is freed": { call: "cuMemFree_v2", code: 700, lost: true },
  "copy past the end of its allocation": { call: "cuMemcpyDtoH_v2", code: 1 },
  "asynchronous copy from memory that is not pinned": { call: "cuMemcpyHtoDAsync_v2", code: 1 },
  "launch of too many threads": { call: "cuLaunchKernel", code: 1 },
  "launch with too few arguments": { call: "cuLaunchKernel", code: 1 },
  "launch with more shared memory than was asked for": { call: "cuLaunchKernel", code: 1 },
  "synchronising while capturing": { call: "cuStreamSynchronize", code: 900 },
  "allocating while capturing": { call: "cuMemAlloc_v2", code: 900 },
  "loading kernels while capturing": { call: "cuModuleLoadData", code: 900 },
  "a graph of memory that was freed since": { call: "cuStreamSynchronize", code: 700, lost: true },
  "capture with a fork that is not joined": { call: "cuStreamEndCapture", code: 904 },
  "work for a stream that is gone": { call: "cuMemsetD8Async", code: 400 },
  "memory freed twice": { call: "cuMemFree_v2", code: 1 },
  "launch of more threads than the kernel's bound": { call: "cuLaunchKernel", code: 1 },
  "launch of a kernel of another context": { call: "cuLaunchKernel", code: 400 },
  "recording an event in a stream of another context": { call: "cuEventRecord", code: 400 },
  "launching a graph while capturing": { call: "cuGraphLaunch", code: 900 },
  "freeing pinned memory while capturing": { call: "cuMemFreeHost", code: 900 },
  "copying while capturing": { call: "cuMemcpyHtoD_v2", code: 906 },
  "a product without a leading dimension": { call: "cublasGemmEx", code: 7 },
  "a product of no columns without a leading dimension": { call: "cublasGemmEx", code: 7 },
  "a product without a matrix": { call: "cublasGemmEx", code: 7 },
  "an update of a graph to another topology": { call: "cuGraphExecUpdate_v2", code: 910 },
  "opening a memory handle in the process that made it": { call: "cuIpcOpenMemHandle_v2", code: 201 },
  "exporting memory that is not allocated": { call: "cuIpcGetMemHandle", code: 1 },
  "closing memory that is not open": { call: "cuIpcCloseMemHandle", code: 1 },
  "no current context": { call: "cuMemAlloc_v2", code: 201 },
};

const all = Object.entries(ANSWERS), lost = all.filter(([, a]) => a.lost), mild = all.filter(([, a]) => !a.lost);

standinTest("mistakes that a call can see are answered by that call, and the context goes on", async (env) => {
  const found = JSON.parse(await program("misuse.ts", env, ...mild.map(([name]) => name)));
  for (const [name, { call, code }] of mild) {
    assert.deepEqual([found[name].call, found[name].code], [call, code], name);
    if (name !== "no current context") assert.equal(found[name].later, 0, name);
  }
});

for (const [name, { call, code }] of lost) {
  standinTest(`${name}: this ends the context: every later call fails alike`, async (env) => {
    const found = JSON.parse(await program("misuse.ts", env, name))[name];
    assert.deepEqual(found, { call, code, later: code, fatal: true });
  });
}

standinTest("work is asynchronous: without an event another stream reads what was there before", async (env) => {
  const { stale, right, partial } = JSON.parse(await program("misuse.ts", env, "order"));
  assert.deepEqual(stale, { busy: true, value: 0 });
  assert.deepEqual(right, { busy: true, value: 4 });
  assert.equal(partial, "NaN", "lanes that do not exist give poison");
});

cudaTest("a job without a GPU, or with a GPU that is not there, ends with a hint", async (env) => {
  const none = await run("misuse.ts", { ...env, CUDA_VISIBLE_DEVICES: "" }, "--list");
  assert.notEqual(none.code, 0);
  assert.match(none.stderr, /cuInit failed: CUDA_ERROR_NO_DEVICE \(100\)/);
});

standinTest("a kernel with more than 4 KiB of arguments does not compile", async (env) => {
  assert.match(
    await program("misuse.ts", env, "arguments"),
    /^KernelCompileError: .*\n[^]*Formal parameter space overflowed/,
  );
});

cudaTest("memory of one process is another's, and the driver answers mistakes with it", async (env) => {
  const found = JSON.parse(await program("ipc.ts", env));
  assert.deepEqual(found, {
    "what the other wrote by a copy": 7,
    "what the other wrote by a kernel": 2,
    "opened twice": "the same address",
    "a handle with another byte": 1,
    "flags that are none": 1,
  });
}, { gpus: 2 });

standinTest("memory that was freed, or that is none, is not reached from another process", async (env) => {
  assert.deepEqual(JSON.parse(await program("ipc.ts", env, "mistakes")), {
    "a copy beyond the end": 1,
    "a copy after the owner has freed it": 1,
    "opening what was freed": 1,
    "a kernel beyond the end": 700,
    "a kernel after the owner has freed it": 700,
    "GPUs that do not reach each other": 217,
  });
});

standinTest("access between the GPUs of one process is enabled once, and not where there is none", async (env) => {
  assert.deepEqual(JSON.parse(await program("misuse.ts", env, "peers")), [1, 0, 0, 704, 201, 1, 0, 705]);
  const apart = { ...env, SHARDWISE_STANDIN_PEER: "0" };
  assert.deepEqual(JSON.parse(await program("misuse.ts", apart, "peers")), [0, 0, 217, 217, 201, 1, 705, 705]);
});

standinTest("NCCL's calls do what they must for one rank, and answer mistakes with a status", async (env) => {
  const answers = JSON.parse(await program("nccl_calls.ts", env));
  assert.deepEqual(answers, {
    "more elements than the allocation has": 4,
    "memory that was freed": 4,
    "elements that are not aligned": 4,
    "a root that is none": 4,
    "a type that is none": 4,
    "an operation that was destroyed": 4,
    "an id that NCCL has not made": 4,
    "a rank outside": 4,
    "the end of a group that was not begun": 5,
    "a communicator that was destroyed": 4,
    "no current context": 1,
  });
});

async function program(file: string, env: Record<string, string>, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await run(file, env, ...args);
  assert.equal(code, 0, `${stdout}\n${stderr}`);
  return stdout;
}

async function run(file: string, env: Record<string, string>, ...args: string[]) {
  const path = fileURLToPath(new URL(`./programs/${file}`, import.meta.url));
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", path, ...args],
    env: { ...env, NO_COLOR: "1" },
  });
  const { code, stdout, stderr } = await command.output(), text = new TextDecoder();
  return { code, stdout: text.decode(stdout), stderr: text.decode(stderr) };
}
