// deno-lint-ignore-file no-console
/**
 * Decodes with a model folder on GPUs, one a rank, and on CPUs for comparison where one rank runs; prints as JSON how many things each step
 * issued, why steps are not recorded, and how far the logits are from those of a CPU. Arguments: the folder, tokens of the prompt, steps, tokens that the state
 * is told to become or `-`, the step after which the rows of a batch of 2 change places, or `-`, and `plain` for a model without fused ops.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { toNumbers } from "../../../src/core/host_tensor.ts";
import { CausalFeeds } from "../../../src/generate/feeds.ts";
import { init } from "../../../src/runtime/comm/init.ts";
import type { ParallelModel } from "../../../src/runtime/parallel_model.ts";
import { parallelizeModel } from "../../../src/session.ts";

const [folder, length, steps, capacity, swap, how] = Deno.args as [string, string, string, string, string, string?];
const prompt = Array.from({ length: Number(length) }, (_, i) => (5 * i + 3) % 31 + 1);
const batch = swap === "-" ? 1 : 2, path = join(folder, "model.onnx");
const token = (row: number, step: number) => (7 * step + 3 * row) % 31 + 1;

async function logits(
  model: ParallelModel,
  largest = 0,
): Promise<{ readonly rows: number[][]; readonly issued: number[] }> {
  const o = { capacity: prompt.length + Number(steps), pads: Array(batch).fill(0), given: {} };
  const feeds = new CausalFeeds(model.stepInputs, o), rows: number[][] = [], issued: number[] = [];
  const state = model.start(batch, capacity === "-" ? {} : { capacity: Number(capacity) });
  let now = Array.from({ length: batch }, () => prompt), past = 0;
  for (let step = 0; step <= Number(steps); step++) {
    const top = largest > 0 ? { output: "logits", count: largest } : undefined;
    const found = await model.step(feeds.at(past, now), state, { top });
    // Views of what the next step overwrites.
    rows.push(
      found.logits ? Array.from(toNumbers(found.logits)) : [
        ...Array.from(toNumbers(found["logits.values"]!)),
        ...Array.from(toNumbers(found["logits.ids"]!)),
      ],
    );
    issued.push(model.timing.issued ?? 0);
    past += now[0]!.length;
    now = Array.from({ length: batch }, (_, row) => [token(row, step)]);
    if (String(step) === swap) model.reorder(state, [1, 0]);
  }
  return { rows, issued };
}

await using comm = await init({ device: "cuda" });
await using model = await parallelizeModel(path, { comm, device: "cuda", config: { fuse: how !== "plain" } });
const { rows, issued } = await logits(model), { notRecorded, reduces } = model.timing;
let difference = 0;
if (comm.size === 1) {
  await using reference = await parallelizeModel(path, { comm, device: "cpu" });
  const wanted = await logits(reference);
  rows.forEach((row, i) => row.forEach((v, k) => difference = Math.max(difference, Math.abs(v - wanted.rows[i]![k]!))));
}
// The largest logits that the GPU tells are those of the whole rows.
if (comm.size === 1 && batch === 1) {
  const { rows: found } = await logits(model, 5);
  rows.forEach((row, step) => {
    const last = row.slice(-row.length / (step === 0 ? prompt.length : 1));
    const ids = [...last.keys()].sort((a, b) => last[b]! - last[a]! || a - b).slice(0, 5);
    assert.deepEqual(found[step], [...ids.map((id) => last[id]!), ...ids]);
  });
}
if (comm.rank === 0) console.log(JSON.stringify({ issued, notRecorded, difference, reduces, rows: rows.at(-1) }));
