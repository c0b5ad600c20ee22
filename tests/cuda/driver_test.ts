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
