/** Every rewrite against the graph that it replaces, on random data: as one program, and cut over ranks. */
import assert from "node:assert/strict";
import { compareTensors } from "../../cli/compare.ts";
import { fromNumbers, type HostTensor } from "../../src/core/host_tensor.ts";
import { type Graph, isCall, valueOf } from "../../src/graph/graph.ts";
import { evenlyShared, maxLocalSize } from "../../src/graph/layout.ts";
import { ParallelExecutionCtx } from "../../src/passes/context.ts";
import { cleanPipeline, shardPipeline } from "../../src/passes/pipelines.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { EmulatedModel } from "../../src/runtime/emulation.ts";
import { type AttentionForm, attentionGraph } from "./attention_graph.ts";

/** Only reading counts: then no rank is left without heads to spare it a copy of a kv head, where copies are few. */
const COSTS = { memoryPrice: 0, splitCollectives: 0, collectiveSeconds: 0, callSeconds: 0, bytesPerSecond: 1e3 };

function prepared(graph: Graph<"global">, ranks: number, fuse: boolean) {
  const ctx = new ParallelExecutionCtx({ ranks, rank: 0, config: { fuse, costs: COSTS } });
  const clean = cleanPipeline().run(graph, ctx);
  const ops = clean.nodes.filter(isCall).map((n) => n.op);
  return { sharded: () => shardPipeline().run(clean, ctx), ops, notes: ctx.rewrites };
}

interface Case {
  readonly batch: number;
  readonly past: number;
  readonly sequence: number;
  /** Tokens of padding at the left, by row. */
  readonly padding: readonly number[];
}

function inputsOf({ kvHeads, headDim, dtype = "f32" }: AttentionForm, { batch, past, sequence, padding }: Case) {
  let state = 99;
  const random = () => (state = (state * 1664525 + 1013904223) % 2 ** 32) / 2 ** 32 - 0.5;
  const floats = (...shape: number[]) =>
    fromNumbers(dtype, shape, Array.from({ length: shape.reduce((a, b) => a * b, 1) }, random));
  const grid = (rows: number, columns: number, at: (row: number, column: number) => number) =>
    fromNumbers(
      "i64",
      [rows, columns],
      Array.from({ length: rows * columns }, (_, i) => at(Math.floor(i / columns), i % columns)),
    );
  return {
    x: floats(batch, sequence, 24),
    attention_mask: grid(batch, past + sequence, (row, t) => Number(t >= padding[row]!)),
    position_ids: grid(batch, sequence, (row, s) => Math.max(0, past + s - padding[row]!)),
    "past.key": floats(batch, kvHeads, past, headDim),
    "past.value": floats(batch, kvHeads, past, headDim),
  } satisfies Record<string, HostTensor>;
}

/** Batch 2 with padding; the first row of a prompt sees nothing at all; a chunk; one token; a mask of zeros. */
const CASES: readonly Case[] = [
  { batch: 1, past: 0, sequence: 4, padding: [0] },
  { batch: 2, past: 0, sequence: 5, padding: [0, 3] },
  { batch: 2, past: 6, sequence: 1, padding: [2, 0] },
  { batch: 1, past: 4, sequence: 3, padding: [1] },
  { batch: 2, past: 3, sequence: 1, padding: [4, 0] },
];

/** The most query heads on a rank. */
function mostHeads(graph: Graph<"sharded">, { heads, headDim }: AttentionForm): number {
  const [query] = graph.nodes.find((n) => isCall(n) && n.op === "CachedAttention")!.outputs;
  const placement = valueOf(graph, query!).placement!;
  return placement.kind === "S" ? maxLocalSize(placement.layout) / headDim : heads;
}

/** With fewer kv heads than ranks, several hold copies of one. */
const RANKS = [1, 2, 3, 5];

/** The lowest number of float32. */
const LOWEST = -3.4028234663852886e38;

const FORMS: Readonly<Record<string, AttentionForm>> = {
  "heads of their own": { heads: 3, kvHeads: 3, headDim: 8, rotated: 0 },
  "shared heads and rotary positions": { heads: 6, kvHeads: 2, headDim: 8, rotated: 8 },
  "rotary positions of half a head": { heads: 4, kvHeads: 4, headDim: 16, rotated: 8 },
  "rotary positions of neighbours": { heads: 4, kvHeads: 2, headDim: 8, rotated: 8, pairs: "heads first" },
  "rotary positions of neighbours in half a head, tokens first": {
    heads: 3,
    kvHeads: 3,
    headDim: 16,
    rotated: 8,
    pairs: "tokens first",
  },
  "a window": { heads: 4, kvHeads: 2, headDim: 8, rotated: 8, window: 3 },
  "keys turned in one folded dim": { heads: 4, kvHeads: 2, headDim: 8, rotated: 8, folded: true },
  "a soft cap": { heads: 4, kvHeads: 2, headDim: 8, rotated: 0, softcap: 0.7 },
  "numbers that hide": { heads: 4, kvHeads: 2, headDim: 8, rotated: 0, guard: false, hidden: LOWEST },
  "numbers that hide, though there is a guard": { heads: 3, kvHeads: 3, headDim: 8, rotated: 0, hidden: -1e32 },
  "no guard, so that rows are NaN that see nothing": { heads: 4, kvHeads: 2, headDim: 8, rotated: 0, guard: false },
  "a mask into which padding is scattered": {
    heads: 6,
    kvHeads: 2,
    headDim: 8,
    rotated: 0,
    guard: false,
    hidden: LOWEST,
    written: "scatter",
  },
  "later tokens' scores replaced by what a table says": {
    heads: 3,
    kvHeads: 3,
    headDim: 8,
    rotated: 0,
    guard: false,
    hidden: LOWEST,
    written: "table",
  },
  "scores that are scaled when they are masked": {
    heads: 4,
    kvHeads: 2,
    headDim: 8,
    rotated: 0,
    guard: false,
    hidden: LOWEST,
    written: "scores",
    scaledLast: true,
  },
  "a mask that is added before scores are scaled": { heads: 4, kvHeads: 2, headDim: 8, rotated: 0, scaledLast: true },
  "a cache that is a result under another name": { heads: 4, kvHeads: 2, headDim: 8, rotated: 8, named: true },
  "ONNX's Attention after the cache": { heads: 4, kvHeads: 2, headDim: 8, rotated: 8, asOp: true },
  "tokens that are counted from 0, with the past added": {
    heads: 4,
    kvHeads: 2,
    headDim: 8,
    rotated: 0,
    counted: true,
  },
  "heads that are merged to rows": { heads: 4, kvHeads: 2, headDim: 8, rotated: 8, merged: "rows" },
  "heads that something reads before they are merged": {
    heads: 3,
    kvHeads: 3,
    headDim: 8,
    rotated: 0,
    merged: "later",
  },
  "16 bits": { heads: 4, kvHeads: 2, headDim: 8, rotated: 8, dtype: "f16" },
  "later tokens' scores replaced, and padding added": {
    heads: 4,
    kvHeads: 2,
    headDim: 8,
    rotated: 0,
    guard: false,
    hidden: LOWEST,
    written: "scores",
  },
};

for (const [name, form] of Object.entries(FORMS)) {
  Deno.test(`attention with ${name} gives as one op what it gives written out, with any padding, on ${RANKS} ranks`, async () => {
    const engine = await openNativeEngine();
    const written = prepared(attentionGraph(form), 1, false);
    await using expected = await EmulatedModel.open(engine, written.sharded(), 1);
    for (const ranks of RANKS) {
      const fused = prepared(attentionGraph(form), ranks, true);
      assert.ok(fused.ops.includes("CachedAttention"), fused.notes.map((n) => n.reason).join());
      // What is left is the softmax of a mask that hides by numbers, for rows that see nothing.
      assert.equal(fused.ops.includes("Softmax"), Number.isFinite(form.hidden ?? -Infinity));
      assert.equal(fused.ops.filter((op) => op === "RotaryEmbedding").length, form.rotated > 0 ? 2 : 0);
      const sharded = fused.sharded();
      if (ranks === 5) {
        const even = evenlyShared(form.heads, form.heads / form.kvHeads, ranks);
        assert.equal(mostHeads(sharded, form), maxLocalSize(even), "query heads of the busiest rank");
      }
      await using model = await EmulatedModel.open(engine, sharded, ranks);
      for (const c of CASES) {
        const inputs = inputsOf(form, c);
        const wanted = new Map(Object.entries(await expected.run(inputs)));
        const tolerance = form.dtype === "f16" ? { atol: 4e-3, rtol: 4e-3 } : { atol: 1e-5, rtol: 1e-4 };
        for (const o of compareTensors(await model.run(inputs), wanted, tolerance)) {
          assert.ok(o.pass, `${JSON.stringify(c)} on ${ranks} ranks: ${o.name} ${o.problem ?? `off by ${o.maxAbs}`}`);
        }
      }
    }
  });
}

const REFUSED: Readonly<Record<string, readonly [Partial<AttentionForm>, RegExp]>> = {
  "whose later tokens are not hidden": [{ causal: false }, /not seen to hide later tokens/],
  "of 16 bits whose mask hides by a number": [{ dtype: "f16", hidden: -65504 }, /-65504 .* not enough to hide it/],
  "whose mask hides hardly": [{ hidden: -10 }, /not enough to hide/],
  "with heads that ONNX Runtime does not take": [{ headDim: 12 }, /multiples of 8/],
  "whose cache something else reads": [{ keysRead: true }, /read elsewhere/],
};

for (const [name, [change, reason]] of Object.entries(REFUSED)) {
  Deno.test(`attention ${name} is left as it was written, and the report says why`, () => {
    const { ops, notes } = prepared(attentionGraph({ ...FORMS["a window"]!, rotated: 0, ...change }), 1, true);
    assert.ok(!ops.includes("CachedAttention"));
    assert.match(notes.find((n) => n.rule === "cached_attention")?.reason ?? "", reason);
  });
}

Deno.test("with fuse: false no rule is tried", () => {
  const { ops, notes } = prepared(attentionGraph(FORMS["a window"]!), 1, false);
  assert.deepEqual(notes, []);
  assert.ok(ops.includes("Softmax") && ops.includes("Neg"));
});
