/** Attention without a growing cache, written out and as one op, on random data: as one program, and cut over ranks. */
import assert from "node:assert/strict";
import { compareTensors } from "../../cli/compare.ts";
import { fromNumbers, type HostTensor } from "../../src/core/host_tensor.ts";
import { type Graph, isCall } from "../../src/graph/graph.ts";
import { ParallelExecutionCtx } from "../../src/passes/context.ts";
import { cleanPipeline, shardPipeline } from "../../src/passes/pipelines.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { EmulatedModel } from "../../src/runtime/emulation.ts";
import { type PlainAttentionForm, plainAttentionGraph, WIDTH } from "./plain_attention_graph.ts";

/** Splitting costs nothing, so that heads are cut in layers as small as these. */
const COSTS = { memoryPrice: 0, splitCollectives: 0, collectiveSeconds: 0, callSeconds: 0, bytesPerSecond: 1e3 };

function prepared(graph: Graph<"global">, ranks: number, fuse: boolean) {
  const ctx = new ParallelExecutionCtx({ ranks, rank: 0, config: { fuse, costs: COSTS } });
  const clean = cleanPipeline().run(graph, ctx);
  const calls = clean.nodes.filter(isCall);
  return { sharded: () => shardPipeline().run(clean, ctx), calls, ops: calls.map((n) => n.op), notes: ctx.rewrites };
}

interface Case {
  readonly batch: number;
  readonly sequence: number;
  readonly keys: number;
  /** Keys of each sequence that nobody sees, from the left. */
  readonly padding: readonly number[];
}

/** One token; a batch with padding; a sequence of nothing but padding. */
const CASES: readonly Case[] = [
  { batch: 1, sequence: 1, keys: 4, padding: [0] },
  { batch: 2, sequence: 5, keys: 3, padding: [2, 0] },
  { batch: 2, sequence: 4, keys: 6, padding: [0, 6] },
];

function inputsOf(form: PlainAttentionForm, { batch, sequence, keys, padding }: Case) {
  const { heads, size, valueSize = size, over = "itself", dtype = "f32", sequenceFirst } = form;
  let state = 99;
  const random = () => (state = (state * 1664525 + 1013904223) % 2 ** 32) / 2 ** 32 - 0.5;
  const floats = (...shape: number[]) =>
    fromNumbers(dtype, shape, Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => 4 * random()));
  const count = over === "itself" ? sequence : keys;
  // A sequence that is all padding stays so at its own length.
  const hidden = padding.map((p) => (p === keys ? count : Math.min(p, count - 1)));
  const seen = Array.from({ length: batch * count }, (_, i) => Number(i % count >= hidden[Math.floor(i / count)]!));
  return {
    x: sequenceFirst ? floats(sequence, batch, WIDTH) : floats(batch, sequence, WIDTH),
    seen: fromNumbers("i64", [batch, count], seen),
    ...(over === "others" ? { others: floats(batch, count, WIDTH) } : {}),
    ...(over === "cache"
      ? { keys: floats(batch, heads, count, size), values: floats(batch, heads, count, valueSize) }
      : {}),
  } satisfies Record<string, HostTensor>;
}

const RANKS = [1, 2, 3, 4];

const FORMS: Readonly<Record<string, PlainAttentionForm>> = {
  "of no mask": { heads: 3, size: 8 },
  "of heads that no number of ranks divides, and a row of a mask": { heads: 5, size: 4, mask: "row" },
  "of a mask for every token, and scores that are scaled afterwards": {
    heads: 4,
    size: 8,
    mask: "tokens",
    scaled: "after",
    turned: "by heads",
  },
  "of a bias by head, and scores that are not scaled": { heads: 6, size: 6, mask: "heads", scaled: "not" },
  "of a bias by head and a mask": { heads: 3, size: 8, mask: "sum" },
  "of scores replaced by the lowest number": { heads: 4, size: 5, mask: "replaced", turned: "folded" },
  "of scores replaced by -∞, so that rows are NaN that see nothing": {
    heads: 2,
    size: 1,
    mask: "replaced all",
    hidden: -Infinity,
  },
  "of rows that are 0 where they see nothing": { heads: 4, size: 8, mask: "row", hidden: -Infinity, guard: true },
  "of a mask that hides hardly": { heads: 4, size: 8, mask: "row", hidden: -2 },
  "over another sequence, with values of another size": {
    heads: 4,
    size: 8,
    valueSize: 12,
    over: "others",
    mask: "row",
  },
  "over a cache that is only read": { heads: 4, size: 8, over: "cache", turned: "by heads", mask: "row" },
  "over a cache that is only read, with values of another size": {
    heads: 3,
    size: 8,
    valueSize: 6,
    over: "cache",
    turned: "by heads",
    mask: "row",
  },
  "of sequences first": { heads: 4, size: 8, sequenceFirst: true, turned: "folded", mask: "row" },
  "as ONNX's Attention": { heads: 4, size: 8, asOp: true, over: "others" },
  "as ONNX's Attention, of conditions": { heads: 3, size: 8, asOp: true, over: "cache", mask: "row" },
  "of 16 bits": { heads: 4, size: 8, dtype: "f16", mask: "replaced", hidden: -Infinity, guard: true },
};

for (const [name, form] of Object.entries(FORMS)) {
  Deno.test(`attention ${name} gives as one op what it gives written out, on ${RANKS} ranks`, async () => {
    const engine = await openNativeEngine();
    const written = prepared(plainAttentionGraph(form), 1, false);
    await using expected = await EmulatedModel.open(engine, written.sharded(), 1);
    for (const ranks of RANKS) {
      const fused = prepared(plainAttentionGraph(form), ranks, true);
      assert.ok(fused.ops.includes("MultiHeadAttention"), fused.notes.map((n) => n.reason).join());
      assert.ok(!fused.ops.includes("Softmax") && !fused.ops.includes("Attention"));
      await using model = await EmulatedModel.open(engine, fused.sharded(), ranks);
      for (const c of CASES) {
        const inputs = inputsOf(form, c);
        const wanted = new Map(Object.entries(await expected.run(inputs)));
        const tolerance = form.dtype === "f16" ? { atol: 4e-2, rtol: 4e-3 } : { atol: 1e-5, rtol: 1e-4 };
        for (const o of compareTensors(await model.run(inputs), wanted, tolerance)) {
          assert.ok(o.pass, `${JSON.stringify(c)} on ${ranks} ranks: ${o.name} ${o.problem ?? `off by ${o.maxAbs}`}`);
        }
      }
    }
  });
}

Deno.test("attention whose heads were split from a layer's width reads the width", () => {
  const { calls } = prepared(plainAttentionGraph({ heads: 4, size: 8, mask: "row" }), 1, true);
  assert.ok(!calls.some((n) => n.op === "Transpose" || n.op === "Reshape"), calls.map((n) => n.op).join());
});

Deno.test("attention over a cache that is only read takes keys and values by heads, as they are", () => {
  const { calls } = prepared(plainAttentionGraph(FORMS["over a cache that is only read"]!), 1, true);
  assert.deepEqual(calls.find((n) => n.op === "MultiHeadAttention")!.inputs.slice(1, 3), ["keys", "values"]);
});

const REFUSED: Readonly<Record<string, readonly [Partial<PlainAttentionForm>, RegExp]>> = {
  "whose scores a number replaces that does not hide": [{ mask: "replaced", hidden: -1e4 }, /replaced by -10000/],
  "with a soft cap": [{ softcap: 3 }, /soft cap/],
  "whose weights something else reads": [{ weightsRead: true }, /read elsewhere/],
  "whose heads stay apart": [{ apart: true }, /not merged/],
  "whose rows become 0 by a mask that differs by head": [{ mask: "heads", guard: true }, /differs by head/],
  "of 16 bits, with a mask that is added": [{ dtype: "f16", mask: "row" }, /16 bits/],
};

for (const [name, [change, reason]] of Object.entries(REFUSED)) {
  Deno.test(`attention ${name} is left as it was written, and the report says why`, () => {
    const { ops, notes } = prepared(plainAttentionGraph({ heads: 4, size: 8, ...change }), 1, true);
    assert.ok(!ops.includes("MultiHeadAttention"));
    assert.match(notes.find((n) => n.rule === "multi_head_attention")?.reason ?? "", reason);
  });
}
