/** Cross entropy cut by classes against ONNX Runtime's loss and against the formula, with ignored labels. */
import assert from "node:assert/strict";
import { fromNumbers, type HostTensor, toNumbers } from "../../src/core/host_tensor.ts";
import { float, int, string } from "../../src/graph/attributes.ts";
import { GraphBuilder } from "../../src/graph/builder.ts";
import type { Attributes, Graph, Value } from "../../src/graph/graph.ts";
import { balanced } from "../../src/graph/layout.ts";
import { REPLICATE, shard } from "../../src/graph/placement.ts";
import { inferTypes } from "../../src/passes/infer_types.ts";
import { localize } from "../../src/passes/localize.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { emulatedStep } from "../support/emulated.ts";
import { partOf } from "../support/parts.ts";

const ROWS = 6, CLASSES = 11;
const LOGITS = fromNumbers(
  "f32",
  [ROWS, CLASSES],
  Array.from({ length: ROWS * CLASSES }, (_, i) => ((i * 37) % 23) / 4 - 2.5),
);
const LABELS = fromNumbers("i64", [ROWS], [1, 10, -100, 4, 7, 0]);

function lossGraph(op: { domain: string; op: string }, attributes: Attributes): Graph<"global"> {
  const builder = new GraphBuilder("global", "loss", new Map([["", 17], ["shardwise", 1]]));
  builder.placeholder({ name: "logits", type: LOGITS });
  builder.placeholder({ name: "labels", type: LABELS });
  builder.call(
    { kind: "call_function", ...op, inputs: ["logits", "labels"], outputs: ["loss"], attributes },
    [{ name: "loss", type: { dtype: undefined, shape: undefined } }],
  );
  return inferTypes(builder.finish({ inputs: ["loss"], names: ["loss"] }));
}

async function lossOn(ranks: number, graph: Graph<"global">): Promise<HostTensor[]> {
  const placement = ranks === 1 ? REPLICATE : shard(1, balanced(CLASSES, ranks));
  const values = new Map<string, Value>();
  for (const [name, value] of graph.values) {
    values.set(name, { ...value, placement: name === "logits" ? placement : REPLICATE });
  }
  const sharded: Graph<"sharded"> = { ...graph, stage: "sharded", values };
  const locals = Array.from({ length: ranks }, (_, r) => localize(sharded, r, ranks));
  const feeds = locals.map((_, r) => new Map([["logits", partOf(LOGITS, placement, r)], ["labels", LABELS]]));
  return (await emulatedStep(await openNativeEngine(), locals, feeds)).map((r) => r[0]!);
}

for (const reduction of ["mean", "sum", "none"]) {
  Deno.test(`CrossEntropyLoss gives ONNX Runtime's ${reduction} on 1, 2, 4 and 13 ranks, ignored labels left out`, async () => {
    const attributes = { reduction: string(reduction), ignore_index: int(-100) };
    const [expected] = await lossOn(1, lossGraph({ domain: "", op: "SoftmaxCrossEntropyLoss" }, attributes));
    const graph = lossGraph({ domain: "shardwise", op: "CrossEntropyLoss" }, attributes);
    // 13 ranks for 11 classes: two of them hold none.
    for (const ranks of [1, 2, 4, 13]) {
      for (const loss of await lossOn(ranks, graph)) {
        assert.deepEqual([...loss.shape], [...expected!.shape]);
        const found = toNumbers(loss);
        Array.from(toNumbers(expected!)).forEach((x, i) => {
          // f32 sums of 11 terms in another order.
          assert.ok(Math.abs(x - found[i]!) < 5e-6 * (1 + Math.abs(x)), `${ranks} ranks: ${found[i]} is not ${x}`);
        });
      }
    }
  });
}

Deno.test("CrossEntropyLoss smooths labels and penalises large sums as the formula says", async () => {
  const [smoothing, z] = [0.1, 1e-3];
  const attributes = { label_smoothing: float(smoothing), z_loss: float(z) };
  const x = Array.from(toNumbers(LOGITS)), labels = Array.from(toNumbers(LABELS));
  let total = 0, penalty = 0, count = 0;
  labels.forEach((label, row) => {
    if (label < 0) return;
    const scores = x.slice(row * CLASSES, (row + 1) * CLASSES);
    const logSum = Math.log(scores.reduce((s, v) => s + Math.exp(v), 0));
    const uniform = scores.reduce((s, v) => s + (logSum - v), 0) / CLASSES;
    total += (1 - smoothing) * (logSum - scores[label]!) + smoothing * uniform;
    penalty += z * logSum ** 2;
    count++;
  });
  const expected = (total + penalty) / count;
  const graph = lossGraph({ domain: "shardwise", op: "CrossEntropyLoss" }, attributes);
  for (const ranks of [1, 3]) {
    for (const loss of await lossOn(ranks, graph)) {
      assert.ok(Math.abs(toNumbers(loss)[0]! - expected) < 1e-5 * expected, `${toNumbers(loss)[0]} is not ${expected}`);
    }
  }
});
