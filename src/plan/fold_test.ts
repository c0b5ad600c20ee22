import assert from "node:assert/strict";
import { isCall } from "../graph/graph.ts";
import { placementKey, printPlacement, REPLICATE } from "../graph/placement.ts";
import { isFoldable, KEPT_BLOCKS, solveFolded, unfoldPlan } from "./fold.ts";
import type { Plan } from "./plan.ts";
import { foldBlocks } from "./repeats.ts";
import { MAX_STATES, search, solvePlan } from "./search.ts";
import { decoder, type DecoderSizes, testOpDef } from "./test_support.ts";

const SIZES: DecoderSizes = { layers: 14, heads: 8, kvHeads: 4, headDim: 64, ffn: 1408, vocab: 4096 };

/** Everything that a plan decides, as text, and its price. */
function decided({ placements, strategies, reshards, cost }: Plan): unknown {
  return {
    placements: [...placements].map(([v, p]) => `${v} ${placementKey(p)}`).toSorted(),
    strategies: [...strategies].map(([n, s]) => `${n} ${s.name} ${[...s.inputs, ...s.outputs].map(placementKey)}`)
      .toSorted(),
    reshards: reshards.map((r) => `${r.before} ${r.value} ${placementKey(r.from)} ${placementKey(r.to)}`),
    total: Math.round(cost.total * 1e12),
    compute: Math.round(cost.compute * 1e12),
    communication: Math.round(cost.communication * 1e12),
    memory: cost.memory,
  };
}

const VARIANTS: readonly Partial<DecoderSizes>[] = [
  {},
  { kvHeads: 2 },
  { fused: true, kvHeads: 8 },
  { parallel: true },
  { tied: true },
  { heads: 9, kvHeads: 3, ffn: 1409 },
];

for (const variant of VARIANTS) {
  Deno.test(`a folded search finds what a search of all blocks finds: ${JSON.stringify(variant)}`, () => {
    const graph = decoder({ ...SIZES, ...variant });
    for (const ranks of [2, 3, 4]) {
      const options = { ranks, opDef: testOpDef };
      const repeats = foldBlocks(graph, KEPT_BLOCKS[0])!;
      assert.ok(repeats.blocks >= SIZES.layers - 1);
      const folded = solveFolded(repeats.graph, repeats, options, MAX_STATES);
      assert.ok(folded, `${ranks} ranks: nothing was proved`);
      assert.deepEqual(decided(unfoldPlan(graph, folded)), decided(solvePlan(graph, options).plan));
    }
  });
}

Deno.test("search() costs what the fold costs, and does not fold what users ask of single layers", () => {
  const graph = decoder({ ...SIZES, layers: 40 }), options = { ranks: 2, opDef: testOpDef };
  assert.deepEqual(decided(search(graph, options)), decided(solvePlan(graph, options).plan));
  assert.ok(!isFoldable({ ...options, overrides: { "l7.gate": "replicated" } }));
  const overridden = search(graph, { ...options, overrides: { "l7.gate": "replicated" } });
  assert.equal(overridden.strategies.get("l7.gate")!.outputs[0]!.kind, "R");
  assert.equal(overridden.strategies.get("l8.gate")!.outputs[0]!.kind, "S");
});

Deno.test("foldBlocks() leaves graphs alone that have few blocks, or blocks that differ", () => {
  assert.equal(foldBlocks(decoder({ ...SIZES, layers: 3 }), KEPT_BLOCKS[0]), undefined);
  const graph = decoder(SIZES);
  // A block that is another: the run before and after it is too short.
  const odd = graph.nodes.map((n) => (n.name === "l7.gate" ? { ...n, op: "Mystery" } : n)) as typeof graph.nodes;
  assert.equal(foldBlocks({ ...graph, nodes: odd }, KEPT_BLOCKS[1]), undefined);
});

Deno.test("an unfolded plan gives every node its inputs as it wants them", () => {
  const sizes = { heads: 63, kvHeads: 21, headDim: 128, ffn: 28_672, vocab: 128_256 };
  for (const layers of [12, 20]) {
    for (const ranks of [2, 3, 4, 8]) {
      const graph = decoder({ layers, ...sizes });
      const { placements, strategies, reshards } = search(graph, { ranks, opDef: testOpDef });
      const held = new Set([...placements].map(([value, p]) => `${value}\n${placementKey(p)}`));
      const before = Map.groupBy(reshards, (r) => r.before);
      for (const node of graph.nodes) {
        for (const { value, from, to } of before.get(node.name) ?? []) {
          assert.ok(
            held.has(`${value}\n${placementKey(from)}`),
            `${node.name}: ${value} is nowhere ${printPlacement(from)}`,
          );
          held.add(`${value}\n${placementKey(to)}`);
        }
        if (!isCall(node)) continue;
        node.inputs.forEach((value, i) => {
          if (!placements.has(value)) return;
          const wanted = strategies.get(node.name)?.inputs[i] ?? REPLICATE;
          assert.ok(
            held.has(`${value}\n${placementKey(wanted)}`),
            `${node.name} reads ${value} as ${printPlacement(wanted)}`,
          );
        });
      }
    }
  }
});
