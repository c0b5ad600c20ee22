/**
 * The ONNX project's own node tests on a GPU: every fourth of them, or all with SHARDWISE_TEST_ALL=1. An input of small integers (a shape,
 * axes, a depth) that the op needs before it runs is given as a constant, as exporters write it; and as it is, for the host to run the op.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { compareTensors } from "../../cli/compare.ts";
import { FormatError, GraphError } from "../../src/core/errors.ts";
import { dtypeInfo } from "../../src/core/dtype.ts";
import type { HostTensor } from "../../src/core/host_tensor.ts";
import { CudaLibraries } from "../../src/ffi/cuda_libraries.ts";
import { importOnnx } from "../../src/formats/import_onnx.ts";
import { readOnnx } from "../../src/formats/onnx_file.ts";
import { inlineData } from "../../src/graph/builder.ts";
import { type Graph, type Node, outputOf, valueOf } from "../../src/graph/graph.ts";
import { localize } from "../../src/passes/localize.ts";
import { bindSymbols } from "../../src/runtime/cpu/shapes.ts";
import { GpuDevice } from "../../src/runtime/cuda/device.ts";
import { GpuExecutor } from "../../src/runtime/cuda/executor.ts";
import { hostNodes } from "../../src/runtime/cuda/host_nodes.ts";
import type { NamedText } from "../../src/runtime/cuda/kernel_texts.ts";
import { lowerGraph } from "../../src/runtime/cuda/lower.ts";
import { GpuModelExecutor } from "../../src/runtime/cuda/model_executor.ts";
import { withOwnData } from "../../src/runtime/cuda/own_data.ts";
import { WeightPool } from "../../src/runtime/cuda/weights.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { sharded } from "../support/emulated.ts";
import { nodeTensors, nodeTolerance } from "../support/node_tests.ts";
import { sharedOrSkip } from "../support/shared.ts";
import { cudaTest } from "../support/standin.ts";

const isAll = Deno.env.get("SHARDWISE_TEST_ALL") === "1";

/** Integers of at most so many elements may be constants. */
const SMALL = 16;

interface Case {
  readonly name: string;
  readonly local: Graph<"local">;
  readonly feeds: Readonly<Record<string, HostTensor>>;
  readonly expected: readonly HostTensor[];
  readonly kernels: readonly NamedText[];
}

/** The graph with its small integer inputs as constants. */
function withConstants(graph: Graph<"global">, feeds: ReadonlyMap<string, HostTensor>): Graph<"global"> {
  const nodes = graph.nodes.map((node): Node => {
    if (node.kind !== "placeholder") return node;
    const tensor = feeds.get(node.outputs[0])!, { dtype, shape, data } = tensor;
    if (dtypeInfo(dtype).float || data.length > SMALL) return node;
    return { kind: "get_attr", name: node.name, outputs: node.outputs, data: inlineData(dtype, shape, data) };
  });
  return { ...graph, nodes };
}

/** Floats of 8 bits are compared by their codes. */
function asBits(tensor: HostTensor): HostTensor {
  return tensor.dtype.startsWith("f8") ? { ...tensor, dtype: "u8" } : tensor;
}

function prepared(graph: Graph<"global">, feeds: ReadonlyMap<string, HostTensor>): Omit<Case, "name" | "expected"> {
  const local = localize(sharded(graph, 1), 0, 1);
  const names = local.nodes.flatMap((n) => (n.kind === "placeholder" ? [n.outputs[0]] : []));
  const types = new Map(names.map((n) => [n, valueOf(local, n).type]));
  const bindings = bindSymbols(types, (name) => feeds.get(name)!.shape);
  const { commands } = lowerGraph(local, { bindings, rank: 0, ranks: 1 });
  const kernels = commands.flatMap((c) => (c.kind === "kernel" ? [c.launch.plain] : []));
  return { local, feeds: Object.fromEntries(names.map((n) => [n, feeds.get(n)!])), kernels };
}

/** A test as one program of the GPU, and as it is where that takes constants or is not possible. */
interface Opened {
  readonly whole: Case | undefined;
  readonly parts: Omit<Case, "kernels"> | undefined;
}

/** A test; undefined where its opset is too old. */
function openCase(name: string, folder: string): Opened | undefined {
  try {
    using file = readOnnx(join(folder, "model.onnx"));
    const graph = importOnnx(file), inputs = nodeTensors(folder, "input"), expected = nodeTensors(folder, "output");
    const names = graph.nodes.flatMap((n) => (n.kind === "placeholder" ? [n.outputs[0]] : []));
    const feeds = new Map(names.map((n, i) => [n, inputs[i]!]));
    const tried = (graph: Graph<"global">): Case | undefined => {
      try {
        return { name, expected, ...prepared(graph, feeds) };
      } catch (error) {
        if (!(error instanceof GraphError)) throw error;
        return undefined;
      }
    };
    const whole = tried(graph);
    if (whole) return { whole, parts: undefined };
    const local = withOwnData(localize(sharded(graph, 1), 0, 1));
    const read = local.nodes.flatMap((n) => (n.kind === "placeholder" ? [n.outputs[0]] : []));
    const parts = { name, expected, local, feeds: Object.fromEntries(read.map((n) => [n, feeds.get(n)!])) };
    return { whole: tried(withConstants(graph, feeds)), parts };
  } catch (error) {
    if (error instanceof FormatError && error.message.includes("older than the supported")) return undefined;
    throw error;
  }
}

const root = sharedOrSkip("onnx-node-tests");
const names = root === undefined ? [] : [...Deno.readDirSync(root)].filter((e) => e.isDirectory).map((e) => e.name);
const chosen = names.sort().filter((_, i) => isAll || i % 4 === 0);

/** What is wrong with the results of a test. */
function differences(
  { name, local, expected }: Omit<Case, "kernels">,
  results: ReadonlyMap<string, HostTensor>,
): string[] {
  const wanted = new Map(outputOf(local).names.map((n, i) => [n, asBits(expected[i]!)]));
  const got = Object.fromEntries([...results].map(([n, tensor]) => [n, asBits(tensor)]));
  return compareTensors(got, wanted, nodeTolerance(expected)).flatMap((o) =>
    o.pass ? [] : [`${name}: ${o.name} ${o.problem ?? `is off by ${o.maxAbs}`}`]
  );
}

if (root !== undefined) {
  cudaTest(`${isAll ? "all" : "a quarter"} of ONNX's node tests pass on a GPU`, async (env) => {
    using device = new GpuDevice({ gpu: 0, libraries: new CudaLibraries({ env }) });
    const opened = chosen.flatMap((name) => openCase(name, join(root, name)) ?? []), problems: string[] = [];
    const whole = opened.flatMap((o) => o.whole ?? []), parts = opened.flatMap((o) => o.parts ?? []);
    assert.ok(opened.length > 0.9 * chosen.length, `${chosen.length - opened.length} of ${chosen.length} are too old`);
    assert.ok(whole.length > 0.9 * opened.length, `only ${whole.length} of ${opened.length} are one program`);
    // One module for all of them: a compiler that starts once.
    device.kernels.load(whole.flatMap((c) => c.kernels));
    for (const c of whole) {
      using executor = new GpuExecutor(c.local, { device, rank: 0, ranks: 1 });
      problems.push(...differences(c, await executor.run(c.feeds)));
    }
    for (const c of parts) {
      using weights = new WeightPool({ device, held: (dtype) => dtype });
      const host = { open: openNativeEngine, threads: 1 }, inParts = hostNodes(c.local).size > 0;
      await using executor = new GpuModelExecutor(c.local, { device, weights, host, inParts, rank: 0, ranks: 1 });
      problems.push(...differences(c, await executor.run(c.feeds)));
    }
    assert.deepEqual(problems, []);
  });
}
