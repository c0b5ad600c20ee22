/** What a rank fuses, against the same rank unfused, on random data. */
import assert from "node:assert/strict";
import { compareTensors } from "../../cli/compare.ts";
import { symbol } from "../../src/core/dim.ts";
import { fromNumbers, type HostTensor } from "../../src/core/host_tensor.ts";
import { float } from "../../src/graph/attributes.ts";
import { GraphBuilder, inlineData } from "../../src/graph/builder.ts";
import { type Graph, isCall } from "../../src/graph/graph.ts";
import { verify } from "../../src/graph/verify.ts";
import { type Config, ParallelExecutionCtx } from "../../src/passes/context.ts";
import { fuseRank } from "../../src/passes/fuse_rank.ts";
import { localize } from "../../src/passes/localize.ts";
import { cleanPipeline, shardPipeline } from "../../src/passes/pipelines.ts";
import { JoinedWeights } from "../../src/passes/rewrites/joined_weights.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { EmulatedModel } from "../../src/runtime/emulation.ts";
import { type AttentionForm, attentionGraph } from "./attention_graph.ts";

/** Only reading counts, so that heads are cut. */
const COSTS = { memoryPrice: 0, splitCollectives: 0, collectiveSeconds: 0, callSeconds: 0, bytesPerSecond: 1e3 };

function sharded(graph: Graph<"global">, ranks: number, config: Config = {}) {
  const ctx = new ParallelExecutionCtx({ ranks, rank: 0, config: { costs: COSTS, ...config } });
  return shardPipeline().run(cleanPipeline().run(graph, ctx), ctx);
}

/** Rank 0's ops after fusing, and what the rules said. */
function fused(graph: Graph<"sharded">, ranks: number) {
  const { graphs: [local], notes } = fuseRank([localize(graph, 0, ranks)]);
  verify(local!);
  return { ops: local!.nodes.filter(isCall).map((n) => n.op), notes };
}

function randoms(seed: number): () => number {
  let state = seed;
  return () => (state = (state * 1664525 + 1013904223) % 2 ** 32) / 2 ** 32 - 0.5;
}

async function compare(graph: Graph<"sharded">, ranks: number, inputs: readonly Record<string, HostTensor>[]) {
  const engine = await openNativeEngine();
  await using model = await EmulatedModel.open(engine, graph, ranks);
  await using original = await EmulatedModel.open(engine, graph, ranks, { fuse: false });
  for (const feeds of inputs) {
    const expected = new Map(Object.entries(await original.run(feeds)));
    for (const { name, pass, problem, maxAbs } of compareTensors(await model.run(feeds), expected, TOLERANCE)) {
      assert.ok(pass, `${name} on ${ranks} ranks: ${problem ?? `off by ${maxAbs}`}`);
    }
  }
}

const TOLERANCE = { atol: 1e-5, rtol: 1e-5 };

/** Prompts, with and without padding, a chunk after a past, and one token after one. */
function attentionInputs({ kvHeads, headDim }: AttentionForm): Record<string, HostTensor>[] {
  const random = randoms(99);
  const floats = (...shape: number[]) =>
    fromNumbers("f32", shape, Array.from({ length: shape.reduce((a, b) => a * b, 1) }, random));
  const cases = [[1, 0, 4, 0], [2, 0, 3, 1], [1, 5, 3, 1], [1, 40, 1, 0], [2, 6, 1, 2]] as const;
  return cases.map(([batch, past, sequence, padding]) => {
    const grid = (columns: number, at: (row: number, column: number) => number) =>
      fromNumbers(
        "i64",
        [batch, columns],
        Array.from({ length: batch * columns }, (_, i) => at(Math.floor(i / columns), i % columns)),
      );
    const pad = (row: number) => row === 0 ? padding : 0;
    return {
      x: floats(batch, sequence, 24),
      attention_mask: grid(past + sequence, (row, t) => Number(t >= pad(row))),
      position_ids: grid(sequence, (row, s) => Math.max(0, past + s - pad(row))),
      "past.key": floats(batch, kvHeads, past, headDim),
      "past.value": floats(batch, kvHeads, past, headDim),
    };
  });
}

const FORM: AttentionForm = { heads: 4, kvHeads: 2, headDim: 16, rotated: 16 };

for (const format of ["int8:16:acc1", "int4:16:acc1", "int4:16:asym:acc1", "int4:16"]) {
  Deno.test(`queries, keys and values in ${format} as one product give what three give, on 1, 2 and 3 ranks`, async () => {
    for (const ranks of [1, 2, 3]) {
      const graph = sharded(attentionGraph(FORM), ranks, { quantize: format }), { ops } = fused(graph, ranks);
      assert.equal(ops.filter((op) => op === "MatMulNBits").length, 2, `on ${ranks} ranks: ${ops}`);
      assert.equal(ops.filter((op) => op === "Split").length, 1, `on ${ranks} ranks: ${ops}`);
      await compare(graph, ranks, attentionInputs(FORM));
    }
  });
}

Deno.test("products in different formats stay apart, and the rule says why", () => {
  const graph = attentionGraph(FORM);
  // The first product is that of the queries.
  const first = graph.nodes.find((n) => isCall(n) && n.op === "MatMul" && n.inputs[0] === "x")!;
  const { ops, notes } = fused(sharded(graph, 2, { quantize: { "*": "int4:16", [first.name]: "int8:16" } }), 2);
  assert.equal(ops.filter((op) => op === "MatMulNBits").length, 4);
  assert.match(notes.find((n) => n.rule === "joined_products")!.reason!, /held in different formats/);
});

/** `norm(x + y)`, of which the sum is a result too, or is read before the norm, or `y` is one row for all. */
function residualGraph(form: "result" | "within" | "read" | "row"): Graph<"global"> {
  const builder = new GraphBuilder("global", "residual", new Map([["", 18]]));
  const [batch, seq] = [symbol("batch"), symbol("seq")];
  const type = { dtype: "f32", shape: [batch, seq, 6] } as const;
  builder.placeholder({ name: "x", type });
  builder.placeholder({ name: "y", type: form === "row" ? { dtype: "f32", shape: [6] } : type });
  builder.getAttr("w", inlineData("f32", [6], Float32Array.from({ length: 6 }, (_, i) => i - 1.5)));
  const call = (op: string, inputs: readonly string[], output: string) =>
    builder.call({
      kind: "call_function",
      domain: "",
      op,
      inputs,
      outputs: [output],
      attributes: op === "SimplifiedLayerNormalization" ? { epsilon: float(1e-4) } : {},
    }, [{ name: output, type }]);
  call("Add", ["x", "y"], "sum");
  if (form === "read") call("Neg", ["sum"], "negative");
  call("SimplifiedLayerNormalization", ["sum", "w"], "norm");
  const results = ["norm", ...(form === "within" ? [] : form === "read" ? ["negative"] : ["sum"])];
  return builder.finish({ inputs: results, names: results });
}

for (const form of ["result", "within"] as const) {
  Deno.test(`a residual sum (${form}) and its norm as one op give what two give`, async () => {
    const graph = sharded(residualGraph(form), 1), { ops } = fused(graph, 1), random = randoms(3);
    assert.deepEqual(ops, ["SkipSimplifiedLayerNormalization"]);
    const floats = () => fromNumbers("f32", [2, 3, 6], Array.from({ length: 36 }, () => 8 * random()));
    await compare(graph, 1, [{ x: floats(), y: floats() }]);
  });
}

for (
  const [form, reason] of [["read", /is read by .* before the norm/], ["row", /"y" is spread over the sum/]] as const
) {
  Deno.test(`a sum that is not the norm's (${form}) stays apart, and the rule says why`, () => {
    const { ops, notes } = fused(sharded(residualGraph(form), 1), 1);
    assert.ok(ops.includes("Add") && ops.includes("SimplifiedLayerNormalization"), `${ops}`);
    assert.match(notes.find((n) => n.rule === "skip_norm")!.reason!, reason);
  });
}

Deno.test("ranks keep the constants that all hold alike, in one order, also those that a rank without heads does not read", () => {
  const ranks = 5, graph = sharded(attentionGraph(FORM), ranks, { quantize: "int4:16" });
  const lists = Array.from({ length: ranks }, (_, rank) => {
    const { graphs: [local] } = fuseRank([localize(graph, rank, ranks)]);
    const isShared = (name: string) => local!.values.get(name)!.placement?.kind === "R" && graph.values.has(name);
    return local!.nodes.flatMap((n) => n.kind === "get_attr" && isShared(n.outputs[0]) ? n.outputs : []);
  });
  assert.ok(lists[0]!.length > 0);
  for (const list of lists) assert.deepEqual(list, lists[0]);
});

Deno.test("joined weights are the parts one after another, made once for the same parts", () => {
  const weights = new JoinedWeights();
  const [a, b] = [[1, 2, 3, 4], [5, 6]].map((list) => inlineData("u8", [list.length / 2, 2], Uint8Array.from(list)));
  const joined = weights.of([a!, b!]);
  assert.deepEqual(joined.shape, [3, 2]);
  assert.deepEqual([...joined.bytes()], [1, 2, 3, 4, 5, 6]);
  assert.deepEqual([...joined.chunks!()].flatMap((chunk) => [...chunk]), [1, 2, 3, 4, 5, 6]);
  assert.deepEqual([...joined.slice(1, [[1, 2]])], [2, 4, 6]);
  assert.equal(weights.of([a!, b!]), joined);
  assert.notEqual(weights.of([b!, a!]), joined);
});
