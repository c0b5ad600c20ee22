/** Weights, groups and repeated use: what the list of README.md says, [33] to [41]. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { compareTensors } from "../../cli/compare.ts";
import { fromNumbers, type HostTensor, hostTensor, toNumbers } from "../../src/core/host_tensor.ts";
import { int, ints } from "../../src/graph/attributes.ts";
import { printGraph } from "../../src/graph/text.ts";
import { Embedding } from "../../src/layers/embedding.ts";
import { Linear } from "../../src/layers/linear.ts";
import { Sequential } from "../../src/layers/module.ts";
import type { Config } from "../../src/passes/context.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { EmulatedModel } from "../../src/runtime/emulation.ts";
import { shardModel } from "../../src/shard_model.ts";
import { runOnRanks } from "../layers/support.ts";
import { emulatedModel } from "../support/emulated.ts";
import { runRanks } from "../support/ranks.ts";
import { REPOSITORY } from "../support/shared.ts";
import { Net, planned, sameOnAllRanks, SPLIT, weightPlacements } from "./net.ts";

const MLP = join(REPOSITORY, "tests/data/models/mlp/model.onnx");
const X = hostTensor("f32", [1, 3, 32], Float32Array.from({ length: 96 }, (_, i) => Math.sin(i)));

function assertSame(got: Readonly<Record<string, HostTensor>>, expected: Readonly<Record<string, HostTensor>>): void {
  const differences = compareTensors(got, new Map(Object.entries(expected)), { atol: 1e-5, rtol: 1e-5 });
  assert.deepEqual(differences.filter(({ pass }) => !pass), []);
}

Deno.test("a model runs in a group without the job's first rank, whose ranks are counted anew [33]", async () => {
  const results = await runRanks(3, new URL("./programs/group.ts", import.meta.url), { args: [MLP] });
  const said = results.map(({ stdout }) => JSON.parse(stdout));
  assert.deepEqual(said.map(({ group, from }) => [group, from]), [[1, 0], [2, 1], [2, 1]]);
  for (const { y, output } of said.slice(1)) {
    for (const [got, expected] of [[y, said[0].y], [output, said[0].output]]) {
      const worst = Math.max(...got.map((v: number, i: number) => Math.abs(v - expected[i])));
      assert.ok(worst < 1e-5, `off by ${worst}`);
    }
  }
});

Deno.test("ranks draw the same random numbers, and what they drew before a split is what they draw with one [34]", async () => {
  const draws: Readonly<Record<string, (net: Net, h: string) => string>> = {
    normal: (net) => net.op("RandomNormal", [], { shape: ints([2, 3, 6]) }),
    uniform: (net, h) => net.op("RandomUniformLike", [h]),
    like: (net, h) => net.op("RandomNormalLike", [h]),
    bernoulli: (net, h) => net.op("Bernoulli", [net.op("Sigmoid", [h])]),
    multinomial: (net, h) => {
      const classes = net.op("Multinomial", [net.op("Reshape", [h, net.ints(6, 6)])], { sample_size: int(6) });
      return net.op("Reshape", [net.op("Cast", [classes], { to: int(1) }), net.ints(2, 3, 6)]);
    },
    // Whether it trains is an input: ONNX Runtime takes a constant true for false where it stands in `raw_data`.
    dropout: (net, h) => net.op("Dropout", [h, net.scalar(0.5), net.op("Cast", [net.ids([1], [])], { to: int(9) })]),
  };
  for (const [name, draw] of Object.entries(draws)) {
    const net = new Net(), x = net.input([2, 3, 8]), h = net.linear(x, 8, 6);
    const twice = net.op("Sub", [draw(net, h), draw(net, h)]);
    const graph = net.finish(net.linear(net.op("Add", [h, twice]), 6, 5), twice);
    await sameOnAllRanks(net, graph);
    await using model = await EmulatedModel.open(await openNativeEngine(), planned(graph, 2).sharded, 2);
    const numbers = async () => Array.from(toNumbers((await model.run(net.feeds)).y1!));
    const [first, second] = [await numbers(), await numbers()];
    assert.ok(first.some((v) => v !== 0), `${name}: two nodes draw different numbers`);
    assert.notDeepEqual(first, second, `${name}: a second step draws others`);
  }
});

Deno.test("a weight that a state lacks, or has in another shape or dtype, is an error, never a number drawn in its place [35]", () => {
  const make = () =>
    new Sequential(
      new Embedding({ numEmbeddings: 7, embeddingDim: 4 }),
      new Linear({ inFeatures: 4, outFeatures: 3, bias: false }),
    );
  const table = fromNumbers("f32", [7, 4], Array(28).fill(1)), weight = fromNumbers("f32", [3, 4], Array(12).fill(1));
  const load = (state: Record<string, HostTensor>) => make().load(new Map(Object.entries(state)));
  load({ "0.weight": table, "1.weight": weight });
  assert.throws(() => load({ "0.weight": table }), /the state lacks 1\.weight/);
  assert.throws(
    () => load({ "0.weight": table, "1.weight": table }),
    /"1\.weight": expected f32\[3,4\], found f32\[7,4\]/,
  );
  const integers = fromNumbers("i64", [3, 4], Array(12).fill(1));
  assert.throws(() => load({ "0.weight": table, "1.weight": integers }), /expected f32\[3,4\], found i64\[3,4\]/);
});

Deno.test("a graph is compiled again by another plan, which changes neither the graph nor what was compiled before [37]", async () => {
  const net = new Net(), x = net.input([2, 3, 8]);
  const graph = net.finish(net.linear(net.op("Relu", [net.linear(x, 8, 12)]), 12, 8));
  const text = printGraph(graph), engine = await openNativeEngine();
  const whole: Config = { ...SPLIT, overrides: { "*": "replicated" } };
  const first = planned(graph, 2), second = planned(graph, 2, whole), third = planned(graph, 3);
  assert.deepEqual(weightPlacements(first.plan), ["S(1)", "S(0)"]);
  assert.deepEqual(weightPlacements(second.plan), ["R", "R"]);
  await using a = await EmulatedModel.open(engine, first.sharded, 2);
  await using b = await EmulatedModel.open(engine, second.sharded, 2);
  await using c = await EmulatedModel.open(engine, third.sharded, 3);
  // Side by side, [39]: nothing of a model is kept outside of it.
  const results = await Promise.all([a, b, c, b, a].map((model) => model.run(net.feeds)));
  for (const result of results) assertSame(result, results[1]!);
  assert.equal(printGraph(graph), text);
});

Deno.test("a module is traced for any number of ranks, again and again, and keeps its parameters [37, 38]", async () => {
  const layer = new Linear({ inFeatures: 32, outFeatures: 5 });
  layer.initialize({ seed: 2 });
  const inputs = new Map([["x", X]]), [expected] = await runOnRanks(layer, inputs, 1);
  for (const ranks of [3, 2, 3, 1]) {
    for (const found of await runOnRanks(layer, inputs, ranks)) assertSame({ y: found }, { y: expected! });
  }
});

Deno.test("what was exported for some ranks holds the whole model, from which it is exported for others [38]", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-soundness-" });
  try {
    const engine = await openNativeEngine();
    await using original = await emulatedModel(engine, MLP, 1);
    const expected = await original.run({ x: X });
    let model = MLP;
    for (const ranks of [3, 2, 5]) {
      const out = join(folder, `${ranks}`);
      shardModel(model, out, { ranks });
      model = join(out, "model.onnx");
      await using again = await emulatedModel(engine, model, ranks);
      assertSame(await again.run({ x: X }), expected);
    }
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});

Deno.test("dropout is the identity unless the model says that it trains, and its mask is whole [40]", async () => {
  for (const inputs of [[], ["ratio"], ["ratio", "training"]]) {
    const net = new Net(), h = net.linear(net.input([2, 3, 8]), 8, 6);
    const more = inputs.map((name) => net.scalar(name === "ratio" ? 0.9 : false));
    const [y, mask] = net.ops("Dropout", [h, ...more], 2);
    await sameOnAllRanks(
      net,
      net.finish(net.linear(y!, 6, 4), net.op("Sub", [y!, h]), net.op("Cast", [mask!], { to: int(1) })),
    );
  }
});
