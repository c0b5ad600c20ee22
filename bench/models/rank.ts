/**
 * Our side of a bench: one rank, started by the launcher. Arguments: a file with the {@linkcode RankTask} as JSON.
 *
 * Writes `rank<N>.json` ({@linkcode RankMeasured}) and `rank<N>.logits` into the task's folder.
 */
import { init } from "../../src/runtime/comm/init.ts";
import type { Config } from "../../src/passes/context.ts";
import { CausalFeeds } from "../../src/generate/feeds.ts";
import type { ParallelModel } from "../../src/runtime/parallel_model.ts";
import { parallelizeModel } from "../../src/session.ts";
import { ownMemory } from "../../src/runtime/host/process_memory.ts";
import { check, longestSequence, measure, type Measured, type Runner, type Workload } from "./workload.ts";

/** What a rank is asked to do. */
export interface RankTask {
  readonly model: string;
  readonly workload: Workload;
  readonly folder: string;
  readonly threads: number;
  /** What the planner is told; by default nothing. */
  readonly config?: Config;
}

/** What a rank found. */
export interface RankMeasured extends Measured {
  /** Of `loadMs`: until all ranks had met. */
  readonly joinMs: number;
  /** Bytes of weights that this rank computes with. */
  readonly weightBytes: number;
  /** Median over single tokens of the time in barriers, in ms: how unequal the ranks are. */
  readonly waitingMs: number;
}

if (import.meta.main) {
  const task = JSON.parse(Deno.readTextFileSync(Deno.args[0]!)) as RankTask;
  const began = performance.now();
  await using comm = await init();
  const joinMs = performance.now() - began;
  await using model = await parallelizeModel(task.model, { comm, threads: task.threads, config: task.config ?? {} });
  const load = { loadMs: performance.now() - began, loaded: ownMemory() };
  const waits: number[] = [];
  const runner = makeRunner(model, longestSequence(task.workload), waits);
  const logits = await check(runner, task.workload);
  waits.length = 0;
  const found = await measure(runner, task.workload, load);
  const measured: RankMeasured = {
    ...found,
    joinMs,
    weightBytes: model.weightBytes.rank,
    waitingMs: waits.sort((a, b) => a - b)[Math.floor(waits.length / 2)] ?? 0,
    notes: model.notice === undefined ? [] : [model.notice],
  };
  Deno.writeFileSync(`${task.folder}/rank${comm.rank}.logits`, new Uint8Array(logits.buffer));
  Deno.writeTextFileSync(`${task.folder}/rank${comm.rank}.json`, JSON.stringify(measured));
}

function makeRunner(model: ParallelModel, capacity: number, waits: number[]): Runner {
  const carried = new Set(model.carried.map(({ input }) => input));
  const feeds = new CausalFeeds(model.inputs.filter(({ name }) => !carried.has(name)), { capacity });
  let state = model.start(1), past = 0;
  return {
    reset() {
      state = model.start(1);
      past = 0;
    },
    async step(ids) {
      const { logits } = await model.step(feeds.at(past, [ids]), state);
      past += ids.length;
      if (ids.length === 1) waits.push(model.timing.waiting);
      return logits!.data as Float32Array;
    },
  };
}
