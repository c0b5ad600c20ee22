/** What `verify` allows of models that are held in 16 bits: it passes what only rounds, and nothing that splitting did wrong. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { readCases } from "../../cli/cases.ts";
import { compareTensors, type OutputDifference } from "../../cli/compare.ts";
import type { HostTensor } from "../../src/core/host_tensor.ts";
import { importOnnx } from "../../src/formats/import_onnx.ts";
import { readOnnx } from "../../src/formats/onnx_file.ts";
import { readTensors } from "../../src/formats/tensor_file.ts";
import { inlineData } from "../../src/graph/builder.ts";
import { type Graph, type Node, outputOf, valueOf } from "../../src/graph/graph.ts";
import { REPLICATE } from "../../src/graph/placement.ts";
import { localize } from "../../src/passes/localize.ts";
import type { Config } from "../../src/passes/context.ts";
import { type NarrowDType, roundTensor, roundValues } from "../../src/passes/round_values.ts";
import type { Engine } from "../../src/runtime/cpu/engine.ts";
import { openEngine } from "../../src/runtime/cpu/open_engine.ts";
import { shardTensor } from "../../src/runtime/shard_io.ts";
import { emulatedStep, sharded } from "../support/emulated.ts";
import { REPOSITORY } from "../support/shared.ts";

type Local = Graph<"local">;
/** Something that splitting may do wrong: the ranks' graphs, one of which is another. Undefined where a model has no place for it. */
type Defect = (locals: readonly Local[]) => readonly Local[] | undefined;

const RANKS = 2;

function withNode(graph: Local, index: number, node: Node): Local {
  return { ...graph, nodes: graph.nodes.with(index, node) };
}

/** Bytes of a constant, as floats. */
function floats(node: Node | undefined): Float32Array | undefined {
  if (node?.kind !== "get_attr" || node.data.dtype !== "f32") return undefined;
  return new Float32Array(node.data.bytes().slice().buffer);
}

function withFloats(graph: Local, index: number, data: Float32Array): Local {
  const node = graph.nodes[index]!;
  if (node.kind !== "get_attr") throw new Error("no constant");
  return withNode(graph, index, { ...node, data: inlineData("f32", node.data.shape, data) });
}

/** The first all-reduce is left out. */
const droppedSum: Defect = (locals) =>
  locals.map((graph) => {
    const index = graph.nodes.findIndex((n) => n.kind === "collective" && n.collective === "all_reduce");
    const { inputs, outputs, name } = graph.nodes[index] as Extract<Node, { kind: "collective" }>;
    return withNode(graph, index, {
      kind: "call_function",
      name,
      domain: "",
      op: "Identity",
      inputs,
      outputs,
      attributes: {},
    });
  });

/** Where the constants of `graph` with such a placement and so many dims are. */
function constants(
  graph: Local,
  kind: "S" | "P" | "R",
  dims: number,
): { readonly name: string; readonly index: number }[] {
  return graph.nodes.flatMap((n, index) =>
    n.kind === "get_attr" && n.data.dtype === "f32" && n.data.shape.filter((d) => d > 1).length === dims &&
      (valueOf(graph, n.outputs[0]).placement ?? REPLICATE).kind === kind
      ? [{ name: n.outputs[0], index }]
      : []
  );
}

/** The last rank's part of the last matrix that is split begins a row too late. */
const shiftedShard: Defect = ([first, last]) => {
  const { index } = constants(last!, "S", 2).at(-1)!, data = floats(last!.nodes[index])!;
  const row = (last!.nodes[index] as Extract<Node, { kind: "get_attr" }>).data.shape[1]!;
  return [first!, withFloats(last!, index, Float32Array.of(...data.subarray(row), ...data.subarray(0, row)))];
};

/** A bias that one rank adds to a partial sum is added by both. */
const biasTwice: Defect = ([first, last]) => {
  const [bias] = constants(first!, "P", 1);
  return bias && [withFloats(first!, bias.index, floats(first!.nodes[bias.index])!.map((x) => 2 * x)), last!];
};

/** A bias (of a norm, where there is none) has its neighbours' values. */
const biasShifted: Defect = (locals) =>
  locals.map((graph) => {
    const { index } = constants(graph, "R", 1).at(-1)!, data = floats(graph.nodes[index])!;
    return withFloats(graph, index, Float32Array.of(...data.subarray(1), data[0]!));
  });

interface Subject {
  readonly config: Config;
  readonly engine: Engine;
  readonly graph: Graph<"global">;
  readonly inputs: ReadonlyMap<string, HostTensor>;
}

/** What the ranks give, where all of them have the whole of it. */
async function outputs(
  { engine, graph, inputs, config }: Subject,
  ranks: number,
  how: { readonly to: NarrowDType; readonly defect?: Defect; readonly fuse?: boolean },
): Promise<Map<string, HostTensor> | undefined> {
  const whole = sharded(graph, ranks, { fuse: how.fuse ?? true, ...config });
  const right = Array.from({ length: ranks }, (_, r) => localize(whole, r, ranks));
  const locals = how.defect ? how.defect(right) : right;
  if (!locals) return undefined;
  const feeds = locals.map((local, r) =>
    new Map(
      [...inputs].filter(([n]) => local.values.has(n)).map(([n, t]) =>
        [n, shardTensor(roundTensor(t, how.to), valueOf(whole, n).placement!, r)] as const
      ),
    )
  );
  const [first] = await emulatedStep(engine, locals.map((local) => roundValues(local, how.to)), feeds);
  const { names, inputs: values } = outputOf(whole);
  return new Map(
    names.flatMap((n, i) => valueOf(whole, values[i]!).placement?.kind === "S" ? [] : [[n, first![i]!] as const]),
  );
}

/** Models, and wishes by which all ranks have the whole of what they give. */
const MODELS: Readonly<Record<string, Config>> = {
  gpt2: { overrides: { "/lm_head/MatMul": "replicated" } },
  llama: { overrides: { "*lm_head*": "replicated" } },
  phi3: { overrides: { "*lm_head*": "replicated" } },
  bert: {},
};

for (const [model, config] of Object.entries(MODELS)) {
  for (const to of ["bf16", "f16"] as const) {
    Deno.test(`${model} on two ranks that round to ${to} passes, and fails with a sum, a shard or a bias that is wrong`, async () => {
      const { cases } = readCases([join(REPOSITORY, "tests/data/models", model)]), engine = await openEngine();
      const c = cases.find((one) => one.kind === "outputs")!;
      assert.ok(c.kind === "outputs");
      using file = readOnnx(c.model);
      const subject = { config, engine, graph: importOnnx(file), inputs: await readTensors(c.inputs) };
      const expected = await readTensors(c.expected), alone = (await outputs(subject, 1, { to, fuse: false }))!;
      const compared = async (defect?: Defect): Promise<OutputDifference[]> => {
        const got = await outputs(subject, RANKS, { to, ...(defect ? { defect } : {}) });
        if (!got) return [];
        const wanted = new Map([...expected].filter(([n]) => got.has(n)));
        return compareTensors(Object.fromEntries(got), wanted, c, { outputs: alone, ranks: RANKS });
      };
      const right = await compared();
      assert.ok(right.length > 0 && right.every((o) => o.pass), JSON.stringify(right));
      const defects = { droppedSum, shiftedShard, biasTwice, biasShifted };
      for (const [name, defect] of Object.entries(defects)) {
        const wrong = await compared(defect);
        if (wrong.length > 0) assert.ok(wrong.some((o) => !o.pass), `${name}: ${JSON.stringify(wrong)}`);
        else assert.ok(name === "biasTwice", name);
      }
    });
  }
}
