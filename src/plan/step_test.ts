import assert from "node:assert/strict";
import { REPLICATE, shard } from "../graph/placement.ts";
import { balanced } from "../graph/layout.ts";
import { FrontierSearch } from "./frontier.ts";
import { SlotClass, type SlotKind, UNPLACED } from "./slot.ts";
import { type Alternative, boundsOf, type Step } from "./step.ts";

/** A slot that is replicated, in 100 bytes, or cut, in 50. */
const slot = (kind: SlotKind) =>
  new SlotClass(0, {
    kind,
    placements: [REPLICATE, shard(0, balanced(2, 2))],
    moves: [[0, 0], [0, 0]],
    bytes: [100, 50],
  });

/** Placed where it enters: everywhere and nowhere yet. */
const enters = (value: string, kind: SlotKind): Step => ({
  inputs: [],
  outputs: [{ value, cls: slot(kind) }],
  dies: new Set(),
  alternatives: [{ cost: 0, memory: 0, wants: [], outputs: [UNPLACED] }],
});

const wants = (placement: number, cost: number): Alternative => ({
  cost,
  memory: 1,
  wants: [[placement]],
  outputs: [],
});

const reads = (value: string, alternatives: readonly Alternative[], last = false): Step => ({
  inputs: [value],
  outputs: [],
  dies: new Set(last ? [value] : []),
  alternatives,
});

Deno.test("bounds count a state where it is first read, and not again", () => {
  const steps = [enters("past", "fixed"), reads("past", [wants(0, 1)]), reads("past", [wants(0, 1)], true)];
  const { least, most } = boundsOf(steps);
  assert.deepEqual(least, [52, 52, 1, 0]);
  assert.deepEqual(most, [102, 102, 1, 0]);
});

Deno.test("bounds count what may be loaded of a shared constant up to its last reader", () => {
  const steps = [enters("w", "constant"), reads("w", [wants(0, 1)]), reads("w", [wants(1, 1)], true)];
  const { least, most } = boundsOf(steps);
  assert.deepEqual(least, [2, 2, 1, 0]);
  assert.deepEqual(most, [152, 152, 151, 0]);
});

Deno.test("a state is placed by its first reader, and keeps that", () => {
  // Cheapest alone would be to read it replicated first and cut then.
  const steps = [
    enters("past", "fixed"),
    reads("past", [wants(0, 1), wants(1, 3)]),
    reads("past", [wants(0, 9), wants(1, 2)], true),
  ];
  const search = (bytes?: number) =>
    new FrontierSearch(steps, {
      maxStates: 8,
      ...(bytes === undefined ? {} : { budget: { bytes, cost: Infinity } }),
    }).solve();
  assert.equal(search()?.cost, 5);
  assert.deepEqual(search()?.decisions.map((d) => d.alternative), [0, 1, 1]);
  assert.deepEqual([search(52)?.cost, search(51)], [5, undefined]);
});

Deno.test("a budget is kept where a shared constant is loaded a second time", () => {
  // Room for the cut alone, or for the whole alone.
  const steps = [
    enters("w", "constant"),
    reads("w", [wants(0, 1), wants(1, 3)]),
    reads("w", [wants(0, 9), wants(1, 2)], true),
  ];
  const cost = (bytes: number) =>
    new FrontierSearch(steps, { maxStates: 8, budget: { bytes, cost: Infinity } }).solve()?.cost;
  assert.deepEqual([cost(152), cost(151), cost(51)], [3, 5, undefined]);
});
