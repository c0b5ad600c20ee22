/** Searching for plans: what the list of README.md says of other solvers' searches, [1] to [10]. */
import assert from "node:assert/strict";
import { int, ints } from "../../src/graph/attributes.ts";
import { isCall } from "../../src/graph/graph.ts";
import { placementKey, printPlacement } from "../../src/graph/placement.ts";
import type { Config } from "../../src/passes/context.ts";
import { Net, planned, sameOnAllRanks, weightPlacements } from "./net.ts";

Deno.test("planning many layers of which an early one meets a late one takes no longer than their number [2, 3]", () => {
  const steps = (layers: number) => {
    const net = new Net(), x = net.input([2, 8]), early = net.linear(x, 8, 8);
    let h = x;
    for (let i = 0; i < layers; i++) h = net.op("Relu", [net.linear(net.op("Relu", [net.linear(h, 8, 12)]), 12, 8)]);
    const graph = net.finish(net.op("Concat", [h, early], { axis: int(-1) }));
    const { plan } = planned(graph, 2);
    return graph.nodes.filter(isCall).length === plan.strategies.size && plan.gap === 0;
  };
  for (const layers of [12, 400]) assert.ok(steps(layers));
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

Deno.test("a plan is chosen by its price, not by the order of what is tried: dear layers are split, cheap ones are not [1]", () => {
  const net = new Net(), x = net.input([4, 512]);
  const small = net.op("Relu", [net.linear(net.op("Slice", [x, net.ints(0), net.ints(4), net.ints(-1)]), 4, 4)]);
  const graph = net.finish(net.linear(net.op("Relu", [net.linear(x, 512, 2048)]), 2048, 512), net.linear(small, 4, 4));
  // Only time counts: collectives as on one host, and as between continents.
  const time: Config = { calibrated: false, memoryPrice: 0, costs: { splitCollectives: 0 } };
  const far: Config = { ...time, costs: { splitCollectives: 0, collectiveSeconds: 0.1 } };
  assert.deepEqual(weightPlacements(planned(graph, 2, time).plan).filter((p) => p !== "R"), ["S(1)", "S(0)"]);
  assert.deepEqual(new Set(weightPlacements(planned(graph, 2, far).plan)), new Set(["R"]));
});

Deno.test("planning and sharding read no weight [9]", () => {
  const net = new Net(), x = net.input([4, 8]);
  const h = net.op("MatMul", [net.op("Relu", [net.op("MatMul", [x, net.unread(8, 16)])]), net.unread(16, 8)]);
  const { plan } = planned(net.finish(net.op("Add", [x, h])), 2);
  assert.deepEqual(weightPlacements(plan).filter((p) => p !== "R"), ["S(1)", "S(0)"]);
});

Deno.test("a layer is known by what it computes, however it is written: MatMul, Gemm in both ways, rows made flat, transposed weights, tables [10]", async () => {
  const forms: Readonly<Record<string, (net: Net, x: string) => string>> = {
    matmul: (net, x) => net.op("Add", [net.linear(x, 8, 12), net.weight(12)]),
    transposed: (net, x) => net.op("MatMul", [x, net.op("Transpose", [net.weight(12, 8)], { perm: ints([1, 0]) })]),
    flattened: (net, x) => {
      const rows = net.op("Reshape", [x, net.ints(-1, 8)]);
      return net.op("Reshape", [net.op("Gemm", [rows, net.weight(8, 12), net.weight(12)]), net.ints(2, 3, 12)]);
    },
    gemm: (net, x) => {
      const rows = net.op("Reshape", [x, net.ints(6, 8)]);
      return net.op("Gemm", [rows, net.weight(12, 8), net.weight(12)], { transB: int(1) });
    },
    convolution: (net, x) => {
      const signal = net.op("Transpose", [x], { perm: ints([0, 2, 1]) });
      return net.op("Conv", [signal, net.weight(12, 8, 1), net.weight(12)]);
    },
    table: (net) => net.op("Gather", [net.weight(9, 8), net.ids([0, 8, 3, 5, 5, 1], [2, 3])]),
  };
  for (const [name, write] of Object.entries(forms)) {
    const net = new Net(), x = net.input([2, 3, 8]);
    for (const plan of (await sameOnAllRanks(net, net.finish(net.op("Relu", [write(net, x)])))).values()) {
      const all = [...plan.strategies.values()].flatMap((s) => s.inputs.map(printPlacement));
      assert.ok(all.some((p) => p.startsWith("S(")), `${name}: ${all}`);
    }
  }
});
