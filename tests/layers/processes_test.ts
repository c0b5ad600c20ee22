/** Modules in real processes, through programs, weight files and shared memory. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fromNumbers } from "../../src/core/host_tensor.ts";
import { writeSafetensors } from "../../src/formats/safetensors.ts";
import { hostTensorFromBytes, toNumbers } from "../../src/core/host_tensor.ts";
import { runRanks } from "../support/ranks.ts";
import { REPOSITORY } from "../support/shared.ts";

/** What a rank prints of a run: the loss, and the logits' bytes in hexadecimal. */
interface Printed {
  readonly loss: number;
  readonly logits: string;
}

/** The mean of what predicting each next id costs, and z-loss, computed the plain way. */
function lossOf(logits: ArrayLike<number>, shape: readonly [number, number], vocabulary: number): number {
  let sum = 0, count = 0;
  const id = (i: number) => (i * 7) % vocabulary;
  for (let b = 0; b < shape[0]; b++) {
    for (let s = 0; s + 1 < shape[1]; s++) {
      const at = b * shape[1] + s;
      const row = Array.from({ length: vocabulary }, (_, c) => logits[at * vocabulary + c]!);
      const logSum = Math.log(row.reduce((total, x) => total + Math.exp(x), 0));
      sum += logSum - row[id(at + 1)]! + 1e-3 * logSum ** 2;
      count++;
    }
  }
  return sum / count;
}

Deno.test("a tied language model gives one loss in 1, 2 and 3 processes, from a file of which each reads its rows", async () => {
  const folder = await Deno.makeTempDir({ prefix: "shardwise-layers-" });
  try {
    const state = join(folder, "model.safetensors");
    const table = fromNumbers("f32", [13, 6], Array.from({ length: 78 }, (_, i) => Math.sin(i * i)));
    const norm = fromNumbers("f32", [6], [1, 0.5, 2, 1.5, 0.25, 1]);
    await writeSafetensors(state, new Map([["wte.weight", table], ["norm.weight", norm]]));
    const program = new URL("./programs/tied_language_model.ts", import.meta.url);
    for (const ranks of [1, 2, 3]) {
      const results = await runRanks(ranks, program, { args: [state] });
      for (const { rank, stdout } of results) {
        assert.equal(stdout, results[0]!.stdout, `rank ${rank} of ${ranks}`);
        const runs = stdout.trim().split("\n").map((line) => JSON.parse(line) as Printed);
        for (const [i, shape] of ([[2, 5], [1, 3]] as const).entries()) {
          const { loss, logits } = runs[i]!;
          const numbers = toNumbers(hostTensorFromBytes("f32", [...shape, 13], Uint8Array.fromHex(logits)));
          const expected = lossOf(numbers, shape, 13);
          assert.ok(Math.abs(loss - expected) < 1e-5 * expected, `${ranks} ranks: ${loss} is not ${expected}`);
        }
      }
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("examples/layers.ts computes on three ranks what one rank computes", async () => {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", "launcher/main.ts", "--nproc", "3", "examples/layers.ts"],
    cwd: REPOSITORY,
    env: { NO_COLOR: "1" },
  }).output();
  const said = new TextDecoder().decode(stdout);
  assert.equal(code, 0, said + new TextDecoder().decode(stderr));
  assert.match(said, /rank 0 of 3 holds 8968 of 26128 bytes of weights/);
  assert.match(said, /largest difference from one rank alone: \d\.\de-\d+/);
});
