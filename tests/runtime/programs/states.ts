// deno-lint-ignore-file no-console
/**
 * A chain of steps of a batch, with fused ops and as the model was written: prints the largest difference of the logits of each step. Argument: a model.
 */
import { type HostTensor, hostTensor, toNumbers } from "../../../src/core/host_tensor.ts";
import { statesInPlace } from "../../../src/program/in_place.ts";
import { init } from "../../../src/runtime/comm/init.ts";
import { parallelizeModel } from "../../../src/session.ts";

/** Tokens by step: a padded prompt, a chunk after it (which needs plain ops), and single tokens until the cache has grown twice. */
const STEPS = [3, 4, ...Array.from({ length: 5 }, () => 1), 70, 1, 130, 1, 1];
const PADDING = 2;

await using comm = await init();
await using fused = await parallelizeModel(Deno.args[0]!, { comm });
await using written = await parallelizeModel(Deno.args[0]!, { comm, config: { fuse: false } });
if (comm.rank === 0) console.log(`${statesInPlace(fused.program).size} of ${fused.carried.length} states in place`);
for (const batch of [1, 2]) {
  const states = [fused.start(batch), written.start(batch)] as const;
  let past = 0;
  for (const sequence of STEPS) {
    const inputs = feeds(batch, past, sequence);
    const a = toNumbers((await fused.step(inputs, states[0])).logits!);
    const b = toNumbers((await written.step(inputs, states[1])).logits!);
    let most = 0;
    for (let i = 0; i < b.length; i++) most = Math.max(most, Math.abs(a[i]! - b[i]!));
    if (comm.rank === 0) console.log(`${batch} ${past} ${sequence} ${a.length === b.length ? most : "unlike"}`);
    past += sequence;
  }
}

/** The last row of a batch is padded at the left. */
function feeds(batch: number, past: number, sequence: number): Record<string, HostTensor> {
  const padding = (row: number) => (row === batch - 1 ? PADDING : 0);
  const grid = (columns: number, at: (row: number, column: number) => number) =>
    hostTensor(
      "i64",
      [batch, columns],
      BigInt64Array.from({ length: batch * columns }, (_, i) => BigInt(at(Math.floor(i / columns), i % columns))),
    );
  return {
    input_ids: grid(sequence, (row, s) => ((past + s) * 7 + row * 3) % 90),
    attention_mask: grid(past + sequence, (row, t) => Number(t >= padding(row))),
    position_ids: grid(sequence, (row, s) => Math.max(0, past + s - padding(row))),
  };
}
