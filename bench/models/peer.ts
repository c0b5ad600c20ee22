/**
 * The other side of a bench: one ONNX Runtime session on the original model. Arguments: a file with the {@linkcode PeerTask} as JSON.
 *
 * ONNX Runtime can return new tensors or write into ones that it is given; which is faster depends on the sizes. Both
 * are tried in the warm-up of each case, and the faster one is measured. Writes `peer.json` and `peer.logits`.
 */
import { InferenceSession } from "onnxruntime-node";
import type { Decoder } from "./decoder.ts";
import { ownMemory } from "../../src/runtime/host/process_memory.ts";
import { PeerRunner } from "./peer_runner.ts";
import {
  check,
  longestSequence,
  measure,
  type Measured,
  measureDecode,
  measurePrefill,
  type Runner,
  type Workload,
} from "./workload.ts";

/** What the peer is asked to do. */
export interface PeerTask {
  readonly model: string;
  readonly decoder: Decoder;
  readonly workload: Workload;
  readonly folder: string;
  readonly threads: number;
}

type Loaded = Pick<Measured, "loadMs" | "loaded">;

if (import.meta.main) {
  const task = JSON.parse(Deno.readTextFileSync(Deno.args[0]!)) as PeerTask;
  const began = performance.now();
  const session = await InferenceSession.create(task.model, {
    intraOpNumThreads: task.threads,
    interOpNumThreads: 1,
    executionMode: "sequential",
    graphOptimizationLevel: "all",
  });
  const load = { loadMs: performance.now() - began, loaded: ownMemory() };
  const capacity = longestSequence(task.workload);
  const sides = {
    "new outputs": new PeerRunner(session, task.decoder, { capacity, preallocate: false }),
    "pre-allocated outputs": new PeerRunner(session, task.decoder, { capacity, preallocate: true }),
  };
  const logits = await check(sides["new outputs"], task.workload);
  const measured = await measureBest(sides, task.workload, load);
  Deno.writeFileSync(`${task.folder}/peer.logits`, new Uint8Array(logits.buffer));
  Deno.writeTextFileSync(`${task.folder}/peer.json`, JSON.stringify(measured));
}

/** Every case on the side that is faster in a short trial. */
async function measureBest(sides: Record<string, Runner>, workload: Workload, load: Loaded): Promise<Measured> {
  const trial: Workload = { ...workload, repeats: 2, tokens: Math.min(workload.tokens, 8) };
  let found: Measured | undefined;
  const notes: string[] = [];
  const run = async (only: Partial<Workload>, name: string, time: (runner: Runner) => Promise<number[]>) => {
    const medians: [number, string][] = [];
    for (const [side, runner] of Object.entries(sides)) medians.push([median(await time(runner)), side]);
    const [, best] = medians.sort(([a], [b]) => a - b)[0]!;
    const part = await measure(sides[best]!, { ...workload, prefill: [], decode: [], ...only }, load);
    found = { ...part, times: { ...found?.times, ...part.times } };
    notes.push(`${name}: ${best}`);
  };
  for (const past of workload.decode) {
    await run({ decode: [past] }, `decode ${past}`, (runner) => measureDecode(runner, trial, past));
  }
  for (const length of workload.prefill) {
    await run({ prefill: [length] }, `prefill ${length}`, (runner) => measurePrefill(runner, trial, length));
  }
  if (!found) throw new RangeError("Cannot measure a workload without cases");
  return { ...found, notes };
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!;
}
