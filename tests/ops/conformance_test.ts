/**
 * Proves every definition on its examples: types against what ONNX Runtime gives, and every strategy that follows from the
 * factors against the unsharded op, on two and on three ranks (so with uneven and empty parts), on up to eight where ranks
 * may hold copies of one kv head.
 */
import assert from "node:assert/strict";
import { type HostTensor, toNumbers } from "../../src/core/host_tensor.ts";
import { type Call, type Graph, isCall, opKey, outputOf, type Value, valueOf } from "../../src/graph/graph.ts";
import { REPLICATE } from "../../src/graph/placement.ts";
import { printType } from "../../src/graph/types.ts";
import type { OpDef } from "../../src/ops/def.ts";
import { opDef, OPS } from "../../src/ops/table.ts";
import { localize } from "../../src/passes/localize.ts";
import { candidateLayouts } from "../../src/plan/candidates.ts";
import { plannedCalls } from "../../src/plan/places.ts";
import type { Strategy } from "../../src/plan/plan.ts";
import { strategiesOf } from "../../src/plan/strategies.ts";
import type { Engine } from "../../src/runtime/cpu/engine.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { exampleGraph } from "../support/op_examples.ts";
import { emulatedStep } from "../support/emulated.ts";
import { combine, partOf } from "../support/parts.ts";

/** Ops that ONNX Runtime 1.30 has no CPU kernel for; their types are tested by hand where they matter. */
const NOT_IN_ORT = new Set(["Swish"]);

/** The graph with placements as a strategy wants them. */
function placed(graph: Graph<"global">, call: Call, strategy: Strategy): Graph<"sharded"> {
  const placements = new Map([
    ...call.inputs.map((n, i) => [n, strategy.inputs[i]!] as const),
    ...call.outputs.map((n, i) => [n, strategy.outputs[i]!] as const),
  ]);
  const values = new Map<string, Value>();
  for (const [name, value] of graph.values) {
    values.set(name, { ...value, placement: placements.get(name) ?? REPLICATE });
  }
  return { ...graph, stage: "sharded", values };
}

function assertClose(found: HostTensor, expected: HostTensor, label: string): void {
  assert.deepEqual([...found.shape], [...expected.shape], `${label}: shapes`);
  const [a, b] = [toNumbers(found), toNumbers(expected)];
  for (let i = 0; i < b.length; i++) {
    const same = Object.is(a[i], b[i]) || a[i] === b[i] || Math.abs(a[i]! - b[i]!) <= 2e-5 * (1 + Math.abs(b[i]!));
    assert.ok(same, `${label}: element ${i} is ${a[i]}, not ${b[i]}`);
  }
}

async function sweep(def: OpDef, engine: Engine): Promise<void> {
  for (const [index, example] of def.examples.entries()) {
    const label = `${opKey(def)} example ${index}`;
    const { graph, feeds } = exampleGraph(def, example);
    const call = graph.nodes.find(isCall)!;
    const whole = placed(graph, call, {
      name: "-",
      inputs: call.inputs.map(() => REPLICATE),
      outputs: call.outputs.map(() => REPLICATE),
    });
    const [reference] = await emulatedStep(engine, [localize(whole, 0, 1)], [feeds]);
    outputOf(graph).inputs.forEach((name, i) => {
      const { type, ints } = valueOf(graph, name);
      const result = reference![i]!;
      // A size that only data decides is no number.
      const shape = type.shape?.map((d, k) => (typeof d === "number" ? d : result.shape[k]!));
      assert.equal(printType({ ...type, shape }), printType({ dtype: result.dtype, shape: result.shape }), label);
      if (ints) assert.deepEqual(ints.elements, Array.from(toNumbers(result)), `${label}: known content`);
    });
    const calls = plannedCalls(graph, opDef);
    // Ranks that hold copies of what units share (kv heads), and ranks that hold nothing.
    const isShared = calls.some((c) => c.shape.components.some((x) => x.sharing.some((n) => n > 1)));
    for (const ranks of isShared ? [2, 3, 4, 5, 8] : [2, 3, 4]) {
      if (calls.length === 0) continue;
      for (
        const strategy of strategiesOf(calls[0]!, candidateLayouts(graph, calls, ranks))
      ) {
        const where = `${label} on ${ranks} ranks, ${strategy.name}`;
        const sharded = placed(graph, call, strategy);
        // What has limits has a second form, without them.
        for (const plain of def.limits ? [false, true] : [false]) {
          const locals = Array.from({ length: ranks }, (_, r) => localize(sharded, r, ranks, { plain }));
          const parts = locals.map((_, r) =>
            new Map([...feeds].map(([name, t]) => [name, partOf(t, valueOf(sharded, name).placement!, r)]))
          );
          const results = await emulatedStep(engine, locals, parts);
          outputOf(graph).inputs.forEach((name, i) => {
            const found = combine(results.map((r) => r[i]!), valueOf(sharded, name).placement!);
            assertClose(found, reference![i]!, plain ? `${where}, plain` : where);
          });
        }
      }
    }
  }
}

for (const def of OPS.values()) {
  if (def.examples.length === 0 || NOT_IN_ORT.has(def.op)) continue;
  Deno.test(`${opKey(def)} infers ONNX Runtime's types, and every strategy gives the unsharded result`, async () => {
    await sweep(def, await openNativeEngine());
  });
}
