/**
 * What other solvers accept and compute wrongly, or refuse although it can be split: each a small graph that must give on 2 and
 * 3 ranks what it gives on one, by the plan of the search and by plans chosen at random among all that the rules allow.
 * Numbers in brackets are those of the list of defects that the cases come from (Optimum's graph-based parallelisation).
 */
import assert from "node:assert/strict";
import { compareTensors } from "../../cli/compare.ts";
import { fromNumbers, type HostTensor } from "../../src/core/host_tensor.ts";
import { type Dim, symbol } from "../../src/core/dim.ts";
import { GraphBuilder, inlineData } from "../../src/graph/builder.ts";
import { type Attributes, type Graph, isCall } from "../../src/graph/graph.ts";
import { int, ints } from "../../src/graph/attributes.ts";
import { placementKey, printPlacement } from "../../src/graph/placement.ts";
import { type Config, ParallelExecutionCtx } from "../../src/passes/context.ts";
import { cleanPipeline, shardPipeline } from "../../src/passes/pipelines.ts";
import type { Plan } from "../../src/plan/plan.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { EmulatedModel } from "../../src/runtime/emulation.ts";
import { randomPlan } from "../support/random_plan.ts";

const RANDOM_PLANS = 6;
/** Memory so dear that every weight is split. */
const SPLIT: Config = { memoryPrice: 1e-2, calibrated: false };

/** A graph under construction; weights and inputs are drawn from one row of numbers. */
class Net {
  readonly #builder = new GraphBuilder("global", "net", new Map([["", 17]]));
  readonly feeds: Record<string, HostTensor> = {};
  #seed = 1;
  #count = 0;

  #numbers(count: number): number[] {
    return Array.from({ length: count }, () => (this.#seed = this.#seed * 48271 % 2147483647) / 2147483647 - 0.5);
  }

  input(shape: readonly number[], type: readonly Dim[] = shape): string {
    const name = `x${this.#count++}`;
    this.#builder.placeholder({ name, type: { dtype: "f32", shape: type } });
    this.feeds[name] = fromNumbers("f32", shape, this.#numbers(shape.reduce((a, b) => a * b, 1)));
    return name;
  }

  ids(values: readonly number[], shape: readonly number[] = [values.length]): string {
    const name = `x${this.#count++}`;
    this.#builder.placeholder({ name, type: { dtype: "i64", shape } });
    this.feeds[name] = fromNumbers("i64", shape, values);
    return name;
  }

  weight(...shape: readonly number[]): string {
    const data = Float32Array.from(this.#numbers(shape.reduce((a, b) => a * b, 1)));
    return this.#builder.getAttr(`w${this.#count++}`, inlineData("f32", shape, data)).outputs[0];
  }

  ints(...values: readonly number[]): string {
    const data = BigInt64Array.from(values, BigInt);
    return this.#builder.getAttr(`i${this.#count++}`, inlineData("i64", [values.length], data)).outputs[0];
  }

  op(op: string, inputs: readonly string[], attributes: Attributes = {}): string {
    return this.ops(op, inputs, 1, attributes)[0]!;
  }

  ops(op: string, inputs: readonly string[], outputs: number, attributes: Attributes = {}): string[] {
    const names = Array.from({ length: outputs }, () => `v${this.#count++}`);
    const values = names.map((name) => ({ name, type: { dtype: undefined, shape: undefined } }));
    this.#builder.call({ kind: "call_function", domain: "", op, inputs, outputs: names, attributes }, values);
    return names;
  }

  /** Rows of `x` by a new matrix; the size of the rows is given. */
  linear(x: string, k: number, n: number): string {
    return this.op("MatMul", [x, this.weight(k, n)]);
  }

  finish(...outputs: readonly string[]): Graph<"global"> {
    return this.#builder.finish({ inputs: outputs, names: outputs.map((_, i) => `y${i}`) });
  }
}

const engine = await openNativeEngine();

/** Runs the net in all ways; gives the plans that the search found, by ranks. */
async function sameOnAllRanks(
  net: Net,
  graph: Graph<"global">,
  sizes: readonly number[] = [2, 3],
): Promise<Map<number, Plan>> {
  const run = async (ranks: number, plan?: (clean: Graph<"global">) => Plan) => {
    const ctx = new ParallelExecutionCtx({ ranks, rank: 0, config: SPLIT });
    const clean = cleanPipeline().run(graph, ctx);
    ctx.plan = plan?.(clean);
    const sharded = shardPipeline().run(clean, ctx);
    await using model = await EmulatedModel.open(engine, sharded, ranks);
    return { results: await model.run(net.feeds), plan: ctx.requirePlan() };
  };
  const expected = new Map(Object.entries((await run(1)).results));
  const plans = new Map<number, Plan>();
  let seed = 7;
  const random = () => (seed = seed * 48271 % 2147483647) / 2147483647;
  for (const ranks of sizes) {
    for (let i = 0; i <= RANDOM_PLANS; i++) {
      const { results, plan } = await run(ranks, i === 0 ? undefined : (clean) => randomPlan(clean, ranks, random));
      for (const o of compareTensors(results, expected, { atol: 1e-5, rtol: 1e-4 })) {
        assert.ok(
          o.pass,
          `${ranks} ranks, ${i === 0 ? "the search's plan" : `random plan ${i}`}: ${o.problem ?? o.maxAbs}`,
        );
      }
      if (i === 0) plans.set(ranks, plan);
    }
  }
  return plans;
}

/** The placements of the matrices of a plan, in order. */
function weightPlacements(plan: Plan): string[] {
  return [...plan.strategies.values()].flatMap((s) => (s.inputs[1] ? [printPlacement(s.inputs[1])] : []));
}

Deno.test("a residual around a layer adds tensors of one cut [11]", async () => {
  const net = new Net(), x = net.input([2, 3, 8]);
  await sameOnAllRanks(net, net.finish(net.op("Add", [x, net.linear(x, 8, 8)])));
});

Deno.test("a bias of heads is added to the heads that a rank holds, also where that is one [12]", async () => {
  for (const heads of [2, 3, 4]) {
    const net = new Net(), x = net.input([2, 5, heads * 4]);
    const split = (t: string) =>
      net.op("Transpose", [net.op("Reshape", [t, net.ints(0, 0, heads, 4)])], { perm: ints([0, 2, 1, 3]) });
    const [q, k, v] = [0, 1, 2].map(() => split(net.linear(x, heads * 4, heads * 4)));
    const scores = net.op("MatMul", [q!, net.op("Transpose", [k!], { perm: ints([0, 1, 3, 2]) })]);
    const biased = net.op("Add", [scores, net.weight(1, heads, 1, 5)]);
    const mixed = net.op("MatMul", [net.op("Softmax", [biased], { axis: int(-1) }), v!]);
    const merged = net.op("Reshape", [
      net.op("Transpose", [mixed], { perm: ints([0, 2, 1, 3]) }),
      net.ints(0, 0, heads * 4),
    ]);
    await sameOnAllRanks(net, net.finish(net.linear(merged, heads * 4, heads * 4)));
  }
});

Deno.test("a slice of a cut dim takes the columns that it asks for, with offsets and steps [13]", async () => {
  for (const [start, end, step] of [[0, 4, 1], [4, 12, 1], [1, 11, 3], [11, 0, -2]] as const) {
    const net = new Net(), h = net.linear(net.input([2, 3, 8]), 8, 12);
    const part = net.op("Slice", [h, net.ints(start), net.ints(end), net.ints(-1), net.ints(step)]);
    await sameOnAllRanks(net, net.finish(part));
  }
});

Deno.test("a new dim is counted from the front and from the back [14]", async () => {
  for (const axis of [0, 2, 3, -1, -2]) {
    const net = new Net(), h = net.linear(net.input([2, 3, 8]), 8, 6);
    await sameOnAllRanks(net, net.finish(net.op("Tanh", [net.op("Unsqueeze", [h, net.ints(axis)])])));
  }
});

Deno.test("a reduction over a cut dim is one over all ranks: means, sums, maxima, of one dim and of all [15, 16, 17]", async () => {
  for (const op of ["ReduceMean", "ReduceMax", "ReduceL2"]) {
    for (const axes of [[-1], [1], [0, 2], undefined]) {
      for (const keep of [0, 1]) {
        const net = new Net(), h = net.linear(net.input([2, 3, 8]), 8, 6);
        const attributes = { ...(axes ? { axes: ints(axes) } : {}), keepdims: int(keep) };
        await sameOnAllRanks(net, net.finish(net.op(op, [h], attributes)), [2]);
      }
    }
  }
  const net = new Net(), h = net.linear(net.input([2, 3, 8]), 8, 6);
  const sums = [net.op("ReduceSum", [h, net.ints(-1)]), net.op("ReduceSum", [h], { keepdims: int(0) })];
  await sameOnAllRanks(net, net.finish(...sums));
});

Deno.test("cumulative sums, softmaxes and variances keep their dims, and never run over a part of one [18]", async () => {
  for (const axis of [1, 2]) {
    const net = new Net(), h = net.linear(net.input([2, 3, 8]), 8, 6);
    const norm = net.op("LayerNormalization", [h, net.weight(6), net.weight(6)], { axis: int(-1) });
    const results = ["Softmax", "LogSoftmax"].map((op) => net.op(op, [h], { axis: int(axis) }));
    await sameOnAllRanks(net, net.finish(net.op("CumSum", [h, net.ints(axis)]), norm, ...results));
  }
});

Deno.test("padding and concatenation on a cut dim, with an axis counted from the back [19]", async () => {
  const net = new Net(), h = net.linear(net.input([2, 3, 8]), 8, 6);
  const padded = net.op("Pad", [h, net.ints(0, 1, 2, 0, 0, 1)]);
  const joined = net.op("Concat", [h, net.linear(h, 6, 4)], { axis: int(-1) });
  await sameOnAllRanks(net, net.finish(padded, joined));
});

Deno.test("results are whole on every rank, also those of the last layer [21]", async () => {
  const net = new Net(), h = net.linear(net.input([2, 3, 8]), 8, 11);
  for (const plan of (await sameOnAllRanks(net, net.finish(h, net.op("ArgMax", [h], { axis: int(-1) })))).values()) {
    assert.match(weightPlacements(plan)[0]!, /^S/);
  }
});

Deno.test("a loss over classes in another dim than the last is taken over all of them [22]", async () => {
  const net = new Net(), h = net.linear(net.input([2, 7, 8]), 8, 5);
  const labels = net.ids([0, 3, 6, -100, 2, 1, 5, 5, 0, 4], [2, 5]);
  const [loss] = net.ops("SoftmaxCrossEntropyLoss", [h, labels], 1, { ignore_index: int(-100) });
  await sameOnAllRanks(net, net.finish(loss!));
});

Deno.test("an op that nobody described gets whole inputs, and the layers around it are split [4]", async () => {
  const net = new Net(), h = net.linear(net.input([4, 4]), 4, 4);
  const plans = await sameOnAllRanks(net, net.finish(net.op("Det", [h]), h));
  for (const plan of plans.values()) assert.match(weightPlacements(plan)[0]!, /^S/);
});

Deno.test("tables and layers too small for all ranks are split as far as they go, or stay whole [5, 6]", async () => {
  const net = new Net(), ids = net.ids([0, 1, 1, 0, 1, 1], [2, 3]);
  const h = net.op("Gather", [net.weight(2, 8), ids], { axis: int(0) });
  await sameOnAllRanks(net, net.finish(net.linear(h, 8, 3), net.linear(h, 8, 1)), [2, 3, 5]);
});

Deno.test("a layer on two dims, and one on four, is split by its own dims [7]", async () => {
  for (const shape of [[5], [2, 3, 2]]) {
    const net = new Net(), x = net.input([...shape, 8]);
    const h = net.op("Relu", [net.linear(x, 8, 10)]);
    const plans = await sameOnAllRanks(net, net.finish(net.linear(h, 10, 8)), [2]);
    assert.deepEqual(weightPlacements(plans.get(2)!).filter((p) => p !== "R").toSorted(), ["S(0)", "S(1)"]);
  }
});

Deno.test("two layers that are added meet once: sums are deferred [8]", async () => {
  const net = new Net(), x = net.input([2, 3, 8]);
  const branch = () => net.linear(net.op("Relu", [net.linear(x, 8, 12)]), 12, 8);
  const plans = await sameOnAllRanks(net, net.finish(net.op("Add", [branch(), branch()])));
  for (const plan of plans.values()) {
    assert.deepEqual(plan.reshards.filter((r) => r.from.kind === "P").map((r) => placementKey(r.to)), ["R"]);
  }
});

Deno.test("a row of tokens with a position beyond a rank's part of the table finds its row [26]", async () => {
  const net = new Net(), ids = net.ids([0, 6, 3, 5, 1, 2, 4, 0], [2, 4]);
  const plans = await sameOnAllRanks(net, net.finish(net.op("Gather", [net.weight(7, 8), ids])));
  assert.match(
    [...plans.get(2)!.strategies.values()].map((s) => printPlacement(s.inputs[0]!)).join(),
    /S\(0:4,3\)|S\(1\)/,
  );
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

Deno.test("planning many layers of which an early one meets a late one takes no longer than their number [2, 3]", () => {
  const steps = (layers: number) => {
    const net = new Net(), x = net.input([2, 8]), early = net.linear(x, 8, 8);
    let h = x;
    for (let i = 0; i < layers; i++) h = net.op("Relu", [net.linear(net.op("Relu", [net.linear(h, 8, 12)]), 12, 8)]);
    const graph = net.finish(net.op("Concat", [h, early], { axis: int(-1) }));
    const ctx = new ParallelExecutionCtx({ ranks: 2, rank: 0, config: SPLIT });
    shardPipeline().run(cleanPipeline().run(graph, ctx), ctx);
    return graph.nodes.filter(isCall).length === ctx.requirePlan().strategies.size && ctx.requirePlan().gap === 0;
  };
  for (const layers of [12, 400]) assert.ok(steps(layers));
});
