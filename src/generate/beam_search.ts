/**
 * Beam search: keeps the likeliest beginnings instead of one.
 *
 * Its semantics are those of Hugging Face's `generate(num_beams=…, do_sample=False)`: of each step's candidates twice as
 * many as there are beams are looked at (more with several end ids), so that enough go on when some end; only the first
 * `beams` of them may end a text; and a text's score is the sum of its log probabilities over its length (end id included,
 * prompt not) to the power of `lengthPenalty`. Source: transformers 4.57, `GenerationMixin._beam_search`.
 */
import { InputError } from "../core/errors.ts";
import type { HostTensor } from "../core/host_tensor.ts";
import type { CausalModel } from "./causal_model.ts";
import { Decoding } from "./decoding.ts";
import { penalised } from "./repetition.ts";

/** How to search. */
export interface BeamSearchOptions {
  /** How many beginnings are kept. */
  readonly beams: number;
  /** A text ends here at the latest. */
  readonly maxNewTokens: number;
  /** Ids that end a text; such an id is given, and is the last one. Default none. */
  readonly endIds?: readonly number[] | undefined;
  /** Power of the length that a score is divided by; above 0 favours longer texts, below 0 shorter ones. Default 1. */
  readonly lengthPenalty?: number | undefined;
  /**
   * When enough texts have ended: `true` stops at once; `false` (the default) when no beginning seems to become better; `never`
   * only when none can.
   */
  readonly earlyStopping?: boolean | "never" | undefined;
  /** Makes tokens that have occurred less likely, above 1. Default 1. */
  readonly repetitionPenalty?: number | undefined;
  /** Tensors that are the same at every step, by name of the input, with one row: what an encoder gave. */
  readonly given?: Readonly<Record<string, HostTensor>> | undefined;
}

/** A text that was found. */
export interface BeamResult {
  /** The new tokens. */
  readonly ids: readonly number[];
  /** Sum of their log probabilities, over the length penalty. */
  readonly score: number;
}

/** A beginning, or a text. */
interface Beam {
  readonly ids: readonly number[];
  readonly score: number;
}

/** A beginning with one more token. */
interface Candidate extends Beam {
  readonly from: number;
  readonly ends: boolean;
}

/** Beyond any sum of log probabilities. */
const IMPOSSIBLE = -1e9;

/**
 * The best `beams` texts after `prompt`, the best first. All ranks of the model call it together.
 *
 * @throws {InputError} If an option is out of range, the prompt is empty, or the model cannot generate.
 */
export async function beamSearch<S>(
  model: CausalModel<S>,
  prompt: readonly number[],
  options: BeamSearchOptions,
): Promise<BeamResult[]> {
  const { beams, maxNewTokens, endIds = [], lengthPenalty = 1, repetitionPenalty = 1 } = options;
  checkBeamOptions(options);
  const given = Object.fromEntries(Object.entries(options.given ?? {}).map(([n, t]) => [n, repeatRow(t, beams)]));
  using decoding = new Decoding(model, new Array(beams).fill(prompt), { maxNewTokens, given });
  const kept = Math.max(2, 1 + endIds.length) * beams;
  let running: readonly Beam[] = Array.from(
    { length: beams },
    (_, i) => ({ ids: [], score: i === 0 ? 0 : IMPOSSIBLE }),
  );
  let finished: readonly Beam[] = [];
  let mayImprove = true;
  // Whole rows, as nothing is said of the largest only.
  let logits = await decoding.begin() as ArrayLike<number>[];
  for (let length = 1;; length++) {
    const scored = logits.map((row, i) => {
      const scores = logSoftmax(row);
      const seen = new Set([...prompt, ...running[i]!.ids]);
      return repetitionPenalty === 1 ? scores : penalised(scores, seen, repetitionPenalty);
    });
    const candidates = best(scored, running, kept).map(({ row, id, score }): Candidate => ({
      ids: [...running[row]!.ids, id],
      score,
      from: row,
      ends: endIds.includes(id) || length === maxNewTokens,
    }));
    const isFull = finished.length === beams && options.earlyStopping === true;
    if (!isFull && mayImprove) {
      const ended = candidates.slice(0, beams).filter((c) => c.ends);
      finished = [...finished, ...ended.map((c) => ({ ids: c.ids, score: c.score / length ** lengthPenalty }))]
        .toSorted((a, b) => b.score - a.score).slice(0, beams);
    }
    // Those that have ended stand behind those that have not, as sorting is stable.
    const next = candidates.toSorted((a, b) => Number(a.ends) - Number(b.ends)).slice(0, beams);
    running = next.map((c) => (c.ends ? { ids: c.ids, score: c.score + IMPOSSIBLE } : c));
    mayImprove &&= canImprove(running[0]!.score, finished, { length, ...options });
    const done = !mayImprove || candidates.every((c) => c.ends) ||
      (finished.length === beams && options.earlyStopping === true);
    if (done) break;
    decoding.reorder(next.map((c) => c.from));
    logits = await decoding.next(next.map((c) => c.ids.at(-1)!)) as ArrayLike<number>[];
  }
  return finished.length > 0 ? [...finished] : [...running];
}

/** @throws {InputError} If an option is out of range. */
export function checkBeamOptions(
  { beams, lengthPenalty = 1, repetitionPenalty = 1 }: Pick<
    BeamSearchOptions,
    "beams" | "lengthPenalty" | "repetitionPenalty"
  >,
): void {
  const refuse = (name: string, value: number, range: string) =>
    new InputError(`Cannot search with ${name} ${value}: it must be ${range}`);
  if (!Number.isInteger(beams) || beams < 1) throw refuse("beams", beams, "a whole number, at least 1");
  if (!Number.isFinite(lengthPenalty)) throw refuse("length penalty", lengthPenalty, "a number");
  if (!(repetitionPenalty > 0)) throw refuse("repetition penalty", repetitionPenalty, "above 0");
}

/** Whether the best beginning may become better than the worst text. */
function canImprove(
  bestRunning: number,
  finished: readonly Beam[],
  { length, beams, maxNewTokens, lengthPenalty = 1, earlyStopping = false }: BeamSearchOptions & { length: number },
): boolean {
  // Places that no text has taken yet count as the worst one.
  if (finished.length < beams) return true;
  const longest = earlyStopping === "never" && lengthPenalty > 0 ? maxNewTokens : length;
  return bestRunning / longest ** lengthPenalty > finished.at(-1)!.score;
}

function logSoftmax(logits: ArrayLike<number>): Float64Array {
  let largest = -Infinity;
  for (let i = 0; i < logits.length; i++) largest = Math.max(largest, logits[i]!);
  if (!Number.isFinite(largest)) {
    throw new InputError(`Cannot search: the largest logit is ${largest}`, {
      hint: "check the model's weights, and its inputs at this step",
    });
  }
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i]! - largest);
  const shift = largest + Math.log(sum);
  return Float64Array.from(logits, (x) => x - shift);
}

/** The `count` best tokens over all beginnings, best first; of equals the one of the earlier beginning and smaller id. */
function best(
  scores: readonly Float64Array[],
  running: readonly Beam[],
  count: number,
): { row: number; id: number; score: number }[] {
  const found: { row: number; id: number; score: number }[] = [];
  scores.forEach((row, r) => {
    const base = running[r]!.score;
    for (let id = 0; id < row.length; id++) {
      const score = base + row[id]!;
      if (found.length === count && !(score > found.at(-1)!.score)) continue;
      let at = found.length;
      while (at > 0 && score > found[at - 1]!.score) at--;
      found.splice(at, 0, { row: r, id, score });
      if (found.length > count) found.pop();
    }
  });
  return found;
}

/** A tensor of one row, as one of `rows` equal rows. */
function repeatRow(tensor: HostTensor, rows: number): HostTensor {
  const { dtype, shape, data } = tensor;
  const all = new (data.constructor as new (n: number) => typeof data)(data.length * rows);
  for (let i = 0; i < rows; i++) all.set(data as never, i * data.length);
  return { dtype, shape: shape.with(0, rows), data: all };
}
