/**
 * What is measured, the same on both sides: prompts of given lengths, and single tokens around given lengths of the past.
 *
 * A decode case is a loop as generation runs it: a prompt, then one token at a time, each reading the cache that the last one
 * wrote; half of the steps lie below the named past, half from there on. Token ids are fixed, so that both sides compute the same.
 */
import { ownMemory, type ProcessMemory } from "../../src/runtime/host/process_memory.ts";

/** A side of the bench: a loaded decoder with one sequence. */
export interface Runner {
  /** Forgets the sequence. */
  reset(): void;
  /** Feeds tokens after those fed before; resolves to the logits, `[ids.length * vocabulary]`, valid until the next step. */
  step(ids: readonly number[]): Promise<Float32Array>;
}

/** What to measure, and how often. */
export interface Workload {
  readonly prefill: readonly number[];
  readonly decode: readonly number[];
  /** Prompts a case in a round. */
  readonly repeats: number;
  /** Single tokens a decode case in a round. */
  readonly tokens: number;
  readonly vocabulary: number;
}

/** What one process found in one round. */
export interface Measured {
  /** From the start of its code to a model that can run, in ms. */
  readonly loadMs: number;
  /** By case: `prefill 16`, `decode 128`; every single time, in ms. */
  readonly times: Readonly<Record<string, readonly number[]>>;
  /** When the model had been loaded, and at the end. */
  readonly loaded: ProcessMemory;
  readonly memory: ProcessMemory;
  /** How it is set up, for the reader. */
  readonly notes: readonly string[];
}

/** The longest sequence of a workload. */
export function longestSequence({ prefill, decode, tokens }: Workload): number {
  return Math.max(CHECKED + 2, ...prefill, ...decode.map((past) => past + tokens));
}

/** The names of the cases, in the order in which they run. */
export function caseNames({ prefill, decode }: Workload): string[] {
  return [...decode.map((past) => `decode ${past}`), ...prefill.map((length) => `prefill ${length}`)];
}

/** Runs all cases on `runner`, each after a warm-up. */
export async function measure(
  runner: Runner,
  workload: Workload,
  load: Pick<Measured, "loadMs" | "loaded">,
): Promise<Measured> {
  const times: Record<string, number[]> = {};
  for (const past of workload.decode) times[`decode ${past}`] = await measureDecode(runner, workload, past);
  for (const length of workload.prefill) times[`prefill ${length}`] = await measurePrefill(runner, workload, length);
  return { ...load, times, memory: ownMemory(), notes: [] };
}

/** Times of `repeats` prompts of `length` tokens. */
export async function measurePrefill(runner: Runner, workload: Workload, length: number): Promise<number[]> {
  const times: number[] = [];
  const prompt = ids(0, length, workload.vocabulary);
  for (let i = -1; i < workload.repeats; i++) {
    runner.reset();
    const began = performance.now();
    await runner.step(prompt);
    if (i >= 0) times.push(performance.now() - began);
  }
  return times;
}

/** Times of `tokens` single tokens, centred on `past` tokens before; the first two only warm up. */
export async function measureDecode(runner: Runner, workload: Workload, past: number): Promise<number[]> {
  const times: number[] = [];
  const before = Math.max(1, past - Math.floor(workload.tokens / 2));
  runner.reset();
  await runner.step(ids(0, before, workload.vocabulary));
  const warmUp = 2;
  for (let i = -warmUp; i < workload.tokens - warmUp; i++) {
    const id = ids(before + warmUp + i, 1, workload.vocabulary);
    const began = performance.now();
    await runner.step(id);
    if (i >= 0) times.push(performance.now() - began);
  }
  return times;
}

/** Length of the prompt that {@linkcode check} feeds. */
const CHECKED = 16;

/** The logits of a prompt's last token and of the token after it: what both sides must agree on. */
export async function check(runner: Runner, { vocabulary }: Workload): Promise<Float32Array> {
  runner.reset();
  const prompt = (await runner.step(ids(0, CHECKED, vocabulary))).slice(-vocabulary);
  const next = (await runner.step(ids(CHECKED, 1, vocabulary))).slice(-vocabulary);
  runner.reset();
  const both = new Float32Array(2 * vocabulary);
  both.set(prompt);
  both.set(next, vocabulary);
  return both;
}

/** Token ids that hit every part of the vocabulary. */
function ids(from: number, length: number, vocabulary: number): number[] {
  return Array.from({ length }, (_, i) => ((from + i) * 7919 + 11) % vocabulary);
}
