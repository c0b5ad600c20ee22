/** What a device promises to whoever uses it, beside computing: the order of its copies, a cache of kernels that may fail, limits of launches. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { UnavailableError } from "../../src/core/errors.ts";
import { CudaLibraries } from "../../src/ffi/cuda_libraries.ts";
import { Nvrtc } from "../../src/ffi/nvrtc.ts";
import { type Graph } from "../../src/graph/graph.ts";
import { REPLICATE } from "../../src/graph/placement.ts";
import { parseGraph } from "../../src/graph/text_parser.ts";
import { inferTypes } from "../../src/passes/infer_types.ts";
import { localize } from "../../src/passes/localize.ts";
import { GpuDevice } from "../../src/runtime/cuda/device.ts";
import { ARGUMENT_BYTES, argumentBytes } from "../../src/runtime/cuda/kernel_arguments.ts";
import { KernelCache } from "../../src/runtime/cuda/kernel_cache.ts";
import { mapLaunch } from "../../src/runtime/cuda/kernel_text.ts";
import { lowerGraph } from "../../src/runtime/cuda/lower.ts";
import { runRanks } from "../support/ranks.ts";
import { REPOSITORY } from "../support/shared.ts";
import { cudaTest, standinTest } from "../support/standin.ts";

cudaTest("what is downloaded is what all work before it has left", (env) => {
  using device = new GpuDevice({ gpu: 0, libraries: new CudaLibraries({ env }), kernelFolder: undefined });
  const bytes = 64 * 2 ** 20, found = new Uint8Array(1);
  using from = device.memory.allocate(bytes, "caches");
  using to = device.memory.allocate(bytes, "caches");
  device.clear(to.value, bytes);
  device.synchronize();
  device.driver.call.cuMemsetD8Async(from.value, 7, BigInt(bytes), device.stream.value);
  for (let i = 0; i < 8; i++) device.copy(to.value, from.value, bytes);
  device.download(to.value + BigInt(bytes - 1), found);
  assert.equal(found[0], 7);
  return Promise.resolve();
});

const one = mapLaunch({
  kind: "map",
  shape: [4],
  reads: [],
  write: { operand: { of: "output", index: 0, dtype: "f32" }, offset: 0, strides: [1] },
  expression: "1.f",
})!;

/** Whether a device with such a cache of kernels computes. */
function computes(env: Record<string, string>, kernelFolder: string): boolean {
  using device = new GpuDevice({ gpu: 0, libraries: new CudaLibraries({ env }), kernelFolder });
  using y = device.memory.allocate(16, "values of a step");
  device.kernels.load([one.plain]);
  device.prepareLaunch(one, () => y.value)();
  const found = new Float32Array(4);
  device.download(y.value, new Uint8Array(found.buffer));
  return found.every((v) => v === 1);
}

cudaTest(
  "a cache of kernels that cannot be read or written costs time only, and a broken file is made anew",
  async (env) => {
    assert.ok(computes(env, "/dev/null/kernels"));
    const folder = await Deno.makeTempDir();
    try {
      assert.ok(computes(env, folder));
      const [file, ...more] = [...Deno.readDirSync(folder)].map((e) => e.name);
      assert.deepEqual(more, []);
      const path = join(folder, file!), whole = await Deno.readFile(path);
      for (const broken of [new Uint8Array(0), new Uint8Array(256).fill(1)]) {
        await Deno.writeFile(path, broken);
        assert.ok(computes(env, folder));
        assert.equal((await Deno.readFile(path)).length, whole.length);
      }
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
);

cudaTest("a GPU that is older than all that NVRTC compiles for is told, with what to install", (env) => {
  const libraries = new CudaLibraries({ env });
  using device = new GpuDevice({ gpu: 0, libraries });
  using cache = new KernelCache({
    driver: device.driver,
    nvrtc: new Nvrtc(libraries),
    architecture: 35,
    folder: undefined,
  });
  assert.throws(
    () => cache.load([one.plain]),
    (e) =>
      e instanceof UnavailableError && /for this GPU \(sm_35\): .* begins with sm_\d+/.test(e.message) &&
      /install an older NVRTC/.test(e.hint ?? ""),
  );
  return Promise.resolve();
});

standinTest("device auto uses CPUs where a library is missing that only computing needs", async (env) => {
  const program = new URL("./programs/auto.ts", import.meta.url);
  const path = join(REPOSITORY, "tests/data/models/bert/model.onnx");
  const own = { ...env, SHARDWISE_LIBCUBLAS: "/nowhere/libcublas.so.13" };
  for (const { stdout } of await runRanks(2, program, { args: [path, "-"], env: own })) {
    assert.match(stdout, /^shm: no GPU \(Cannot open libcublas.*\): using the CPU/);
  }
});

standinTest(
  "device auto takes GPUs that a scheduler gave to each rank alone, and none that ranks would share",
  async (env) => {
    const program = new URL("./programs/auto.ts", import.meta.url);
    const path = join(REPOSITORY, "tests/data/models/bert/model.onnx");
    for (const { stdout } of await runRanks(2, program, { args: [path, "own"], env })) {
      assert.equal(stdout, "nccl: no notice\n");
    }
    for (
      const { stdout } of await runRanks(2, program, { args: [path, "-"], env: { ...env, CUDA_VISIBLE_DEVICES: "3" } })
    ) {
      assert.match(stdout, /^shm: no GPU \(ranks 0, 1 of 2 see the same GPU\): using the CPU/);
    }
  },
);

Deno.test("elementwise ops become one kernel only as far as its argument takes them all", () => {
  const launchesOf = (count: number) => {
    const inputs = Array.from({ length: count + 1 }, (_, i) => `%x${i} = placeholder : f32[2,3]\n`).join("");
    const sums = Array.from(
      { length: count },
      (_, i) => `%s${i + 1} = Add(%${i ? "s" : "x"}${i}, %x${i + 1}) : ?[?]\n`,
    );
    const text = `graph g : global {opset=20}\n${inputs}${sums.join("")}output %s${count}\n`;
    const graph = inferTypes(parseGraph(text) as Graph<"global">);
    const values = new Map([...graph.values].map(([name, v]) => [name, { ...v, placement: REPLICATE }] as const));
    const local = localize({ ...graph, stage: "sharded", values }, 0, 1);
    return lowerGraph(local, { bindings: new Map(), rank: 0, ranks: 1 }).commands
      .flatMap((c) => (c.kind === "kernel" ? [c.launch] : []));
  };
  assert.equal(launchesOf(20).length, 1);
  const many = launchesOf(300);
  assert.equal(many.length, 300);
  assert.ok(many.every((launch) => argumentBytes(launch) <= ARGUMENT_BYTES));
});
