/** Models of which a GPU runs a part: control flow, ops without a kernel, sizes that data tells; against ONNX Runtime. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { compareTensors } from "../../cli/compare.ts";
import type { DType } from "../../src/core/dtype.ts";
import { fromNumbers, type HostTensor } from "../../src/core/host_tensor.ts";
import { CudaLibraries } from "../../src/ffi/cuda_libraries.ts";
import { exportOnnx } from "../../src/formats/export_onnx.ts";
import { inlineData } from "../../src/graph/builder.ts";
import type { Attribute, Graph, Node } from "../../src/graph/graph.ts";
import { isCall, outputOf } from "../../src/graph/graph.ts";
import { REPLICATE } from "../../src/graph/placement.ts";
import { parseGraph } from "../../src/graph/text_parser.ts";
import { inferTypes } from "../../src/passes/infer_types.ts";
import { localize } from "../../src/passes/localize.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { GpuDevice } from "../../src/runtime/cuda/device.ts";
import { hostNodes, opsOf } from "../../src/runtime/cuda/host_nodes.ts";
import { GpuModelExecutor } from "../../src/runtime/cuda/model_executor.ts";
import { WeightPool } from "../../src/runtime/cuda/weights.ts";
import { emulatedStep } from "../support/emulated.ts";
import { REPOSITORY } from "../support/shared.ts";
import { cudaTest } from "../support/standin.ts";

/** A rank's graph from text; its constants of floats are filled with numbers, others with ones. */
function localGraph(text: string): Graph<"local"> {
  const graph = inferTypes(filled(parseGraph(text) as Graph<"global">));
  const values = new Map([...graph.values].map(([n, v]) => [n, { ...v, placement: REPLICATE }] as const));
  return localize({ ...graph, stage: "sharded", values }, 0, 1);
}

function filled(graph: Graph<"global">): Graph<"global"> {
  const attribute = (a: Attribute): Attribute => (a.kind === "graph" ? { ...a, value: filled(a.value) } : a);
  const nodes = graph.nodes.map((node): Node => {
    if (isCall(node)) {
      const attributes = Object.entries(node.attributes).map(([k, a]) => [k, attribute(a)] as const);
      return { ...node, attributes: Object.fromEntries(attributes) };
    }
    if (node.kind !== "get_attr") return node;
    const { dtype, shape } = node.data, all = shape.reduce((a, b) => a * b, 1);
    const { data } = dtype === "f32" ? drawn(shape) : fromNumbers(dtype, shape, Array(all).fill(1));
    return { ...node, data: inlineData(dtype, shape, data) };
  });
  return { ...graph, nodes };
}

/** Numbers between -1 and 1; `from` makes them others. */
function drawn(shape: readonly number[], from = 0): HostTensor {
  const length = shape.reduce((a, b) => a * b, 1);
  return fromNumbers("f32", shape, Array.from({ length }, (_, i) => Math.sin(1.7 * i + from)));
}

const ints = (dtype: DType, ...list: number[]) => fromNumbers(dtype, [list.length], list);

/** A GPU that runs graphs from text. */
class Bench implements AsyncDisposable {
  readonly #device: GpuDevice;
  readonly #open: GpuModelExecutor[] = [];
  readonly #held: (dtype: DType) => DType;

  constructor(env: Record<string, string>, held: (dtype: DType) => DType = (dtype) => dtype) {
    this.#device = new GpuDevice({ gpu: 0, libraries: new CudaLibraries({ env }) });
    this.#held = held;
  }

  executor(graph: Graph<"local">): GpuModelExecutor {
    const device = this.#device, held = this.#held, weights = new WeightPool({ device, held });
    const made = new GpuModelExecutor(graph, {
      device,
      held,
      weights,
      rank: 0,
      ranks: 1,
      host: { open: openNativeEngine, threads: 1 },
      inParts: hostNodes(graph).size > 0,
      onDispose: () => weights[Symbol.dispose](),
    });
    this.#open.push(made);
    return made;
  }

  /** Runs a graph on each of `feeds`, twice over. */
  async agrees(text: string, feeds: readonly Readonly<Record<string, HostTensor>>[], tolerance = 1e-5): Promise<void> {
    const graph = localGraph(text), executor = this.executor(graph), engine = await openNativeEngine();
    for (const given of [...feeds, ...feeds]) {
      const [expected] = await emulatedStep(engine, [graph], [new Map(Object.entries(given))]);
      const wanted = new Map(outputOf(graph).names.map((n, i) => [n, expected![i]!]));
      const got = Object.fromEntries(await executor.run(given));
      const differences = compareTensors(got, wanted, { atol: tolerance, rtol: tolerance }).filter((d) => !d.pass);
      assert.deepEqual(differences, []);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const executor of this.#open) await executor[Symbol.asyncDispose]();
    this.#device[Symbol.dispose]();
  }
}

const BRANCHES = `graph g : global {opset=18}
%x = placeholder : f32[batch,8]
%w = get_attr : f32[8,8] = ...
%h = MatMul(%x, %w) : f32[batch,8]
%total = ReduceSum(%h) {keepdims=0} : f32[]
%zero = Sub(%total, %total) : f32[]
%rises = Greater(%total, %zero) : bool[]
%y = If(%rises | %h, %w) {else_branch=graph b {
  %d = get_attr : f32[8] = ...
  %n = Mul(%h, %d) : ?[?]
  output %n
}, then_branch=graph b {
  %p = MatMul(%h, %w) : ?[?]
  %t = Tanh(%p) : ?[?]
  output %t
}} : f32[batch,8]
%z = Add(%y, %h) : f32[batch,8]
output %z, %y
`;

cudaTest("an If that data decides runs the branch's program, whichever it is", async (env) => {
  await using bench = new Bench(env);
  assert.equal(opsOf(localGraph(BRANCHES), hostNodes(localGraph(BRANCHES))), "If");
  const feeds = [drawn([3, 8]), drawn([3, 8], 2), drawn([5, 8], 4), drawn([5, 8], 5)];
  await bench.agrees(BRANCHES, feeds.map((x) => ({ x })));
});

cudaTest("ranks that share a model run its branches alike", async (env) => {
  const folder = await Deno.makeTempDir();
  try {
    const graph = inferTypes(filled(parseGraph(BRANCHES) as Graph<"global">));
    await Deno.writeFile(join(folder, "model.onnx"), exportOnnx(graph));
    const how = ["--device", "cuda", "--nproc", "2,3", "--against", "unsharded"];
    const args = ["run", "-A", "cli/main.ts", "verify", join(folder, "model.onnx"), ...how];
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args, env, cwd: REPOSITORY }).output();
    const said = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
    assert.equal(code, 0, said);
    assert.match(said, /no GPU runs If: the CPU does/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}, { gpus: 3 });

cudaTest("branches hold what they read in the dtype that was asked for", async (env) => {
  await using bench = new Bench(env, (dtype) => (dtype === "f32" ? "bf16" : dtype));
  await bench.agrees(BRANCHES, [{ x: drawn([3, 8]) }, { x: drawn([3, 8], 2) }], 6e-2);
});

cudaTest(
  "a Loop carries what grows and what does not, stacks what it scans, and ends when its body says so",
  async (env) => {
    await using bench = new Bench(env);
    const text = `graph g : global {opset=18}
%x = placeholder : f32[1,4]
%count = placeholder : i64[]
%limit = placeholder : f32[]
%goes = placeholder : bool[]
%scaled = Mul(%x, %limit) : f32[1,4]
%last, %all, %norms = Loop(%count, %goes, %scaled, %x | %limit) {body=graph b {
  %i = placeholder : i64[]
  %go = placeholder : bool[]
  %v = placeholder : f32[1,4]
  %list = placeholder : ?[?]
  %w = get_attr : f32[4,4] = ...
  %m = MatMul(%v, %w) : f32[1,4]
  %next = Add(%m, %v) : f32[1,4]
  %longer = Concat(%list, %next) {axis=0} : ?[?]
  %norm = ReduceL1(%next) {keepdims=0} : f32[]
  %on = Less(%norm, %limit) : bool[]
  output %on, %next, %longer, %norm
}} : ?[?], ?[?], ?[?]
%y = Softmax(%all) {axis=-1} : ?[?]
output %last, %y, %norms
`;
    const goes = (n: number) => fromNumbers("bool", [], [n]), limit = (n: number) => fromNumbers("f32", [], [n]);
    const count = (n: number) => fromNumbers("i64", [], [n]);
    await bench.agrees(text, [
      { x: drawn([1, 4]), count: count(5), limit: limit(1e6), goes: goes(1) },
      { x: drawn([1, 4], 1), count: count(50), limit: limit(9), goes: goes(1) },
      { x: drawn([1, 4], 1), count: count(1), limit: limit(9), goes: goes(1) },
      { x: drawn([1, 4], 1), count: count(1), limit: limit(9), goes: goes(0) },
    ]);
  },
);

cudaTest("what has no kernel, and what data sizes, runs on the host between programs of the GPU", async (env) => {
  await using bench = new Bench(env);
  const text = `graph g : global {opset=18}
%x = placeholder : f32[rows,4]
%keep = placeholder : bool[rows]
%h = Exp(%x) : f32[rows,4]
%some = Compress(%h, %keep) {axis=0} : ?[?]
%w = get_attr : f32[4,6] = ...
%p = MatMul(%h, %w) : f32[rows,6]
%q = Hardmax(%p) {axis=-1} : f32[rows,6]
%found = NonZero(%q) : ?[?]
%r = Add(%q, %p) : f32[rows,6]
output %some, %found, %r
`;
  const keep = (...list: number[]) => fromNumbers("bool", [list.length], list);
  await bench.agrees(text, [
    { x: drawn([3, 4]), keep: keep(1, 0, 1) },
    { x: drawn([3, 4], 1), keep: keep(0, 0, 0) },
    { x: drawn([5, 4], 2), keep: keep(1, 1, 1, 0, 1) },
  ]);
});

cudaTest("a node that a GPU turns out not to run moves to the host when it comes", async (env) => {
  await using bench = new Bench(env);
  const text = `graph g : global {opset=18}
%x = placeholder : f32[n,n]
%k = placeholder : i64[]
%axes = placeholder : i64[1]
%e = Exp(%x) : f32[n,n]
%low = Trilu(%e, %k) {upper=0} : f32[n,n]
%s = ReduceSum(%low, %axes) {keepdims=1} : f32[1,n]
%y = Div(%low, %s) : f32[n,n]
output %y
`;
  assert.equal(hostNodes(localGraph(text)).size, 0);
  const k = (n: number) => fromNumbers("i64", [], [n]);
  await bench.agrees(text, [
    { x: drawn([3, 3]), k: k(0), axes: ints("i64", 0) },
    { x: drawn([4, 4]), k: k(1), axes: ints("i64", 0) },
  ]);
});

cudaTest(
  "a state goes from step to step where a step needs the host, and moves there when it turns out so",
  async (env) => {
    await using bench = new Bench(env);
    const engine = await openNativeEngine();
    const last = ["%q = Hardmax(%mean) {axis=-1} : f32[batch,1,4]", "%q = Trilu(%mean, %k) {upper=1} : f32[batch,1,4]"];
    for (const [i, line] of last.entries()) {
      const text = `graph g : global {opset=18}
%x = placeholder : f32[batch,s,4]
%k = placeholder : i64[]
%past = placeholder : f32[batch,p,4]
%present = Concat(%past, %x) {axis=1} : f32[batch,p+s,4]
%axes = get_attr : i64[1] = [1]
%mean = ReduceMean(%present, %axes) {keepdims=1} : f32[batch,1,4]
${line}
%y = Add(%q, %mean) : f32[batch,1,4]
output %y, %present
`;
      const graph: Graph<"local"> = { ...localGraph(text), carried: [{ input: "past", output: 1 }] };
      const executor = bench.executor(graph), state = executor.start(2), k = fromNumbers("i64", [], [1]);
      let past = fromNumbers("f32", [2, 0, 4], []);
      for (const [step, length] of [3, 1, 1, 2].entries()) {
        const x = drawn([2, length, 4], step);
        const [expected] = await emulatedStep(engine, [graph], [new Map([["x", x], ["k", k], ["past", past]])]);
        const got = await executor.step({ x, k }, state);
        past = expected![1]!;
        const results = { y: got.get("y")!, past: state.get("past") };
        const wanted = new Map([["y", expected![0]!], ["past", past]]);
        assert.ok(compareTensors(results, wanted, { atol: 1e-5, rtol: 1e-5 }).every((d) => d.pass), `${i} ${step}`);
      }
      state.reorder([1, 1], { kept: false });
      assert.deepEqual(state.get("past").shape, [2, 7, 4]);
      assert.match(executor.timing.notRecorded!, /the host runs .*(Hardmax|Trilu)/);
    }
  },
);
