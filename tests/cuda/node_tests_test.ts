/**
 * The ONNX project's own node tests on a GPU: every fourth of them, or all with SHARDWISE_TEST_ALL=1. An input of small integers (a shape,
 * axes, a depth) that the op needs before it runs is given as a constant, as exporters write it.
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
import type { NamedText } from "../../src/runtime/cuda/kernel_texts.ts";
import { lowerGraph } from "../../src/runtime/cuda/lower.ts";
import { sharded } from "../support/emulated.ts";
import { nodeTensors, nodeTolerance } from "../support/node_tests.ts";
import { sharedOrSkip } from "../support/shared.ts";
import { cudaTest } from "../support/standin.ts";

const isAll = Deno.env.get("SHARDWISE_TEST_ALL") === "1";

/** Why a test is not run: by its name, or that without `_softmax`. What is not listed must run. */
const NOT_RUN: Readonly<Record<string, string>> = {
  test_attention_3d_with_past_and_present_qk_matmul: "attention's scores are asked for",
  test_attention_4d_with_past_and_present_qk_matmul: "attention's scores are asked for",
  test_attention_4d_with_qk_matmul: "attention's scores are asked for",
  test_blackmanwindow_expanded: "a size is cast to float and back",
  test_hammingwindow_expanded: "a size is cast to float and back",
  test_hannwindow_expanded: "a size is cast to float and back",
  test_onehot_negative_indices: "the depth is a float",
  test_onehot_with_negative_axis: "the depth is a float",
};

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

/** A test that can run; undefined where its opset is too old. @throws {GraphError} If it cannot run on a GPU. */
function openCase(name: string, folder: string): Case | undefined {
  try {
    using file = readOnnx(join(folder, "model.onnx"));
    const graph = importOnnx(file), inputs = nodeTensors(folder, "input"), expected = nodeTensors(folder, "output");
    const names = graph.nodes.flatMap((n) => (n.kind === "placeholder" ? [n.outputs[0]] : []));
    const feeds = new Map(names.map((n, i) => [n, inputs[i]!]));
    try {
      return { name, expected, ...prepared(graph, feeds) };
    } catch (error) {
      if (!(error instanceof GraphError)) throw error;
      return { name, expected, ...prepared(withConstants(graph, feeds), feeds) };
    }
  } catch (error) {
    if (error instanceof FormatError && error.message.includes("older than the supported")) return undefined;
    throw error;
  }
}

const root = sharedOrSkip("onnx-node-tests");
const names = root === undefined ? [] : [...Deno.readDirSync(root)].filter((e) => e.isDirectory).map((e) => e.name);
const chosen = names.sort().filter((_, i) => isAll || i % 4 === 0);
const isNotRun = (name: string) => Object.hasOwn(NOT_RUN, name.replace(/_softmax$/, ""));

if (root !== undefined) {
  cudaTest(`${isAll ? "all" : "a quarter"} of ONNX's node tests pass on a GPU`, async (env) => {
    using device = new GpuDevice({ gpu: 0, libraries: new CudaLibraries({ env }) });
    const problems: string[] = [], cases: Case[] = [];
    let old = 0;
    for (const name of chosen) {
      if (isNotRun(name)) continue;
      try {
        const opened = openCase(name, join(root, name));
        if (opened) cases.push(opened);
        else old++;
      } catch (error) {
        problems.push(`${name}: ${error instanceof Error ? error.message : error}`);
      }
    }
    // One module for all of them: a compiler that starts once.
    device.kernels.load(cases.flatMap((c) => c.kernels));
    for (const { name, local, feeds, expected } of cases) {
      using executor = new GpuExecutor(local, { device, rank: 0, ranks: 1 });
      const results = await executor.run(feeds);
      const wanted = new Map(outputOf(local).names.map((n, i) => [n, asBits(expected[i]!)]));
      const got = Object.fromEntries([...results].map(([n, tensor]) => [n, asBits(tensor)]));
      for (const o of compareTensors(got, wanted, nodeTolerance(expected))) {
        if (!o.pass) problems.push(`${name}: ${o.name} ${o.problem ?? `is off by ${o.maxAbs}`}`);
      }
    }
    assert.deepEqual(problems, []);
    assert.equal(cases.length + old + chosen.filter(isNotRun).length, chosen.length);
    assert.ok(old < chosen.length / 10, `${old} of ${chosen.length} are too old`);
  });

  Deno.test("what is not run on a GPU is there", () => {
    for (const name of Object.keys(NOT_RUN)) assert.ok(names.includes(name), name);
  });
}
