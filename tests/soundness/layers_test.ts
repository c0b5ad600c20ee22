/** Layers and what replaces them: what the list of README.md says, [23] to [32]. */
import assert from "node:assert/strict";
import { fromNumbers, type HostTensor, toNumbers } from "../../src/core/host_tensor.ts";
import { symbol } from "../../src/core/dim.ts";
import { int } from "../../src/graph/attributes.ts";
import { printPlacement } from "../../src/graph/placement.ts";
import { VocabParallelCrossEntropyLoss } from "../../src/layers/cross_entropy_loss.ts";
import { localize } from "../../src/passes/localize.ts";
import { runOnRanks } from "../layers/support.ts";
import { Net, planned, sameOnAllRanks, SPLIT, weightPlacements } from "./net.ts";

Deno.test("a residual stream that a plan cuts is cut: sums are scattered, added in parts and gathered, by nodes of the graph [23]", async () => {
  const net = new Net(), x = net.input([1, 8, 8]);
  const norm = (t: string) => net.op("LayerNormalization", [t, net.weight(8), net.weight(8)], { axis: int(-1) });
  const block = (t: string) => net.op("Add", [t, net.linear(net.op("Relu", [net.linear(norm(t), 8, 12)]), 12, 8)]);
  // Reading a tensor is dear, so that sums of all elements on every rank cost more than they are worth. Plans at random cut the
  // sequence too, and norms with it.
  const config = { ...SPLIT, costs: { bytesPerSecond: 1e5, sharedBytesPerSecond: 1e10 } };
  const graph = net.finish(block(block(block(x))));
  for (const ranks of (await sameOnAllRanks(net, graph, [2, 3], config)).keys()) {
    const { plan, sharded } = planned(graph, ranks, config);
    const collectives = sharded.nodes.flatMap((n) => (n.kind === "collective" ? [n.collective] : []));
    assert.equal(collectives.length, plan.reshards.length);
    for (const kind of ["reduce_scatter", "all_gather"] as const) {
      assert.ok(collectives.includes(kind), `${collectives}`);
    }
    assert.ok(!collectives.includes("all_reduce"), `${collectives}`);
  }
});

/** Cross entropy over the rows whose label counts, by the definition. */
function crossEntropy(logits: HostTensor, labels: readonly number[]): number {
  const numbers = toNumbers(logits), classes = logits.shape.at(-1)!;
  const losses = labels.flatMap((label, row) => {
    if (label === -100) return [];
    const x = Array.from({ length: classes }, (_, c) => numbers[row * classes + c]!), top = Math.max(...x);
    return [Math.log(x.reduce((sum, v) => sum + Math.exp(v - top), 0)) + top - x[label]!];
  });
  return losses.reduce((a, b) => a + b, 0) / losses.length;
}

Deno.test("labels of -100 count for nothing, neither in the sum nor in the mean, on the rank that holds their class or on any [24]", async () => {
  const logits = fromNumbers("f32", [5, 7], Array.from({ length: 35 }, (_, i) => 3 * Math.sin(i * i)));
  const loss = new VocabParallelCrossEntropyLoss();
  for (const labels of [[0, 6, 3, 2, 4], [-100, 6, -100, 2, -100], [-100, -100, -100, -100, 5], Array(5).fill(-100)]) {
    const expected = crossEntropy(logits, labels); // NaN where nothing counts, as PyTorch gives
    const inputs = new Map([["logits", logits], ["labels", fromNumbers("i64", [5], labels)]]);
    for (const ranks of [1, 2, 3, 8]) {
      for (const found of await runOnRanks(loss, inputs, ranks)) {
        const value = toNumbers(found)[0]!;
        const same = Object.is(value, expected) || Math.abs(value - expected) < 1e-5;
        assert.ok(same, `${labels} on ${ranks} ranks: ${value} is not ${expected}`);
      }
    }
  }
});

Deno.test("the loss of half-precision logits is computed in f32, by two all-reduces of a few numbers a row [25]", async () => {
  // In f16 a sum of 4000 equal terms ends at 2048, and the loss at 7.6 instead of 8.3.
  const halves = fromNumbers("f16", [2, 4000], Array(8000).fill(1));
  const labels = fromNumbers("i64", [2], [7, 3999]);
  const loss = new VocabParallelCrossEntropyLoss({ labelSmoothing: 0.1, zLoss: 1e-4 });
  for (const found of await runOnRanks(loss, new Map([["logits", halves], ["labels", labels]]), 3)) {
    const logSum = Math.log(4000) + 1, expected = logSum - 1 + 1e-4 * logSum ** 2;
    assert.equal(found.dtype, "f32");
    assert.ok(Math.abs(toNumbers(found)[0]! - expected) < 1e-5, `${toNumbers(found)[0]} is not ${expected}`);
  }
  const types = { logits: { dtype: "f16", shape: [2, 4000] }, labels: { dtype: "i64", shape: [2] } } as const;
  const local = localize(loss.trace(types, { ranks: 3 }), 1, 3);
  const collectives = local.nodes.flatMap((n) => (n.kind === "collective" ? [n.collective] : []));
  assert.deepEqual(collectives, ["all_reduce", "all_reduce"]);
});

Deno.test("a row of tokens with a position beyond a rank's part of the table finds its row [26]", async () => {
  const net = new Net(), ids = net.ids([0, 6, 3, 5, 1, 2, 4, 0], [2, 4]);
  const plans = await sameOnAllRanks(net, net.finish(net.op("Gather", [net.weight(7, 8), ids])));
  assert.match(
    [...plans.get(2)!.strategies.values()].map((s) => printPlacement(s.inputs[0]!)).join(),
    /S\(0:4,3\)|S\(1\)/,
  );
});

Deno.test("what several layers need whole is gathered once, however many read it [27]", async () => {
  const net = new Net(), h = net.linear(net.input([2, 3, 8]), 8, 6);
  const readers = ["Softmax", "LogSoftmax", "Hardmax"].map((op) => net.op(op, [h], { axis: int(-1) }));
  for (const plan of (await sameOnAllRanks(net, net.finish(h, ...readers))).values()) {
    assert.ok(plan.reshards.length <= 1, plan.reshards.map((r) => r.value).join());
  }
});

Deno.test("a sum that is read as parts too is not changed by the all-reduce of its other readers [29]", async () => {
  const net = new Net(), x = net.input([2, 3, 8]);
  const branch = () => net.linear(net.op("Relu", [net.linear(x, 8, 12)]), 12, 8);
  const [a, b] = [branch(), branch()];
  await sameOnAllRanks(net, net.finish(net.op("Relu", [a]), net.op("Add", [a, b]), net.op("Tanh", [b]), a));
});

Deno.test("head counts in shapes are divided wherever they stand: Reshape, Expand, Split sizes, Tile [30]", async () => {
  const net = new Net(), x = net.input([2, 3, 12], [symbol("b"), symbol("s"), 12]);
  const h = net.op("Reshape", [net.linear(x, 12, 24), net.ints(0, 0, 6, 4)]);
  const [a, b] = net.ops("Split", [h, net.ints(2, 4)], 2, { axis: int(2) });
  const expanded = net.op("Expand", [net.op("Unsqueeze", [a!, net.ints(3)]), net.ints(1, 1, 2, 2, 4)]);
  const four = net.op("Reshape", [expanded, net.ints(0, 0, 4, 4)]);
  const tiled = net.op("Tile", [net.op("Mul", [four, b!]), net.ints(1, 1, 1, 2)]);
  await sameOnAllRanks(net, net.finish(net.linear(net.op("Reshape", [tiled, net.ints(0, 0, 32)]), 32, 5)));
});

Deno.test("one weight that two layers share is planned for each of them [31]", async () => {
  const net = new Net(), x = net.input([2, 3, 8]), w = net.weight(8, 8);
  const once = net.op("Relu", [net.op("MatMul", [x, w])]);
  await sameOnAllRanks(net, net.finish(net.op("MatMul", [once, w])));
});

Deno.test("fused queries, keys and values, and gates that are fused with what they gate, are cut piece by piece [32]", async () => {
  const net = new Net(), x = net.input([2, 3, 8]);
  const [q, k, v] = net.ops("Split", [net.linear(x, 8, 18)], 3, { axis: int(2) });
  const [gate, up] = net.ops("Split", [net.linear(x, 8, 20), net.ints(10, 10)], 2, { axis: int(-1) });
  const mixed = net.op("Add", [net.op("Mul", [q!, net.op("Sigmoid", [k!])]), v!]);
  const gated = net.op("Mul", [net.op("Sigmoid", [gate!]), up!]);
  const plans = await sameOnAllRanks(net, net.finish(net.linear(mixed, 6, 8), net.linear(gated, 10, 8)));
  for (const plan of plans.values()) assert.ok(weightPlacements(plan).filter((p) => /^S\(1:\d+\+/.test(p)).length >= 2);
});
