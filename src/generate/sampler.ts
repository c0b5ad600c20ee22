/**
 * Picks the next token from a row of logits.
 *
 * Every rank holds the same logits, bit for bit, and the same seed, so every rank picks the same token: nothing has to be
 * sent. Ties go to the smaller id, so that the choice does not depend on how a sort is implemented.
 */
import { InputError } from "../core/errors.ts";
import { RandomStream } from "./random.ts";
import { penalised } from "./repetition.ts";

/** How to pick. The default is greedy: the token with the largest logit. */
export interface SamplingOptions {
  /** Divides the logits; 0 is greedy, 1 leaves the model's distribution as it is. Default 0. */
  readonly temperature?: number | undefined;
  /** Only the `topK` likeliest tokens; 0 is all of them. Default 0. */
  readonly topK?: number | undefined;
  /** Only the likeliest tokens whose probabilities together reach `topP`, after `topK`; 1 is all. Default 1. */
  readonly topP?: number | undefined;
  /** Only tokens at least `minP` times as likely as the likeliest, after `topP`; 0 is all. Default 0. */
  readonly minP?: number | undefined;
  /** Above 1, makes tokens less likely that the text holds already; also when greedy. Default 1. */
  readonly repetitionPenalty?: number | undefined;
  /** Start of the random numbers. Default 0. */
  readonly seed?: number | undefined;
}

/** The largest logits of a row, in order, and their ids: of equal ones that with the smaller id first. */
export interface Candidates {
  /** Ids of tokens. */
  readonly ids: ArrayLike<number>;
  /** Their logits. */
  readonly values: ArrayLike<number>;
  /** Of all logits of the row: the sum of `exp((x - largest) / temperature)`. */
  readonly sum?: number | undefined;
}

/** Which logits of a row decide; the others need not leave the place where they are computed. */
export interface Wants {
  /** So many of the largest; 1 where one is drawn there. */
  readonly count: number;
  /** What weighs them, where that is wanted of all. */
  readonly temperature?: number;
  /** Whether the sum of all weights is needed. */
  readonly sums?: boolean;
  /** Whether the token is drawn there, with {@linkcode Sampler.nextNumber}. */
  readonly draws?: boolean;
  /** Of those that may be drawn, the least weight against the largest. */
  readonly minP?: number;
  /** The repetition penalty that comes before. */
  readonly penalty?: number;
}

/** What a token is picked from: one logit a token of the vocabulary, or the largest of them. */
export type Logits = ArrayLike<number> | Candidates;

/** So many candidates are worth a search for them where the logits are. */
const MOST_CANDIDATES = 128;

/** A way to pick tokens, with buffers that are kept from token to token. */
export class Sampler {
  readonly #temperature: number;
  readonly #topK: number;
  readonly #topP: number;
  readonly #minP: number;
  readonly #repetitionPenalty: number;
  readonly #random: RandomStream;
  /** A random number that was looked at and not taken. */
  #ahead: number | undefined;
  #weights = new Float64Array(0);
  #order = new Uint32Array(0);

  /** Greedy without options. @throws {InputError} If an option is out of range. */
  constructor(options: SamplingOptions = {}) {
    const { temperature = 0, topK = 0, topP = 1, minP = 0, repetitionPenalty = 1, seed = 0 } = options;
    require(temperature >= 0 && temperature < Infinity, "temperature", temperature, "at least 0");
    require(Number.isInteger(topK) && topK >= 0, "top-k", topK, "a whole number, at least 0");
    require(topP > 0 && topP <= 1, "top-p", topP, "above 0 and at most 1");
    require(minP >= 0 && minP <= 1, "min-p", minP, "at least 0 and at most 1");
    require(
      repetitionPenalty > 0 && repetitionPenalty < Infinity,
      "repetition penalty",
      repetitionPenalty,
      "above 0",
    );
    require(Number.isSafeInteger(seed), "seed", seed, "a whole number");
    this.#temperature = temperature;
    this.#topK = topK;
    this.#topP = topP;
    this.#minP = minP;
    this.#repetitionPenalty = repetitionPenalty;
    this.#random = new RandomStream(seed);
  }

  /** Which logits decide; undefined where all of a row may, and no sum of them helps. */
  get wants(): Wants | undefined {
    const penalty = this.#repetitionPenalty === 1 ? {} : { penalty: this.#repetitionPenalty };
    if (this.#temperature === 0) return { count: 1, ...penalty };
    if (this.#topK > 0) return this.#topK <= MOST_CANDIDATES ? { count: this.#topK, ...penalty } : undefined;
    const temperature = this.#temperature;
    if (this.#topP < 1) return { count: MOST_CANDIDATES, temperature, sums: true, ...penalty };
    return { count: 1, temperature, draws: true, minP: this.#minP, ...penalty };
  }

  /** The random number that the next pick takes, in [0, 1). */
  get nextNumber(): number {
    return this.#ahead ??= this.#random.next();
  }

  /** Whether {@linkcode pick} picks the same from `logits` as from all of them: candidates must reach top-p. */
  suffices(logits: Logits, seen: Iterable<number> = []): boolean {
    if (!("ids" in logits) || logits.sum === undefined) return true;
    const row = this.#penalised(logits, seen), largest = row[0]!;
    let reached = 0;
    for (let i = 0; i < row.length; i++) reached += Math.exp((row[i]! - largest) / this.#temperature);
    return !(reached < this.#topP * logits.sum);
  }

  /**
   * The id of the next token.
   *
   * @param logits One logit a token of the vocabulary, or those that {@linkcode wants} tells, from which it is the same.
   * @param seen The tokens of the text so far, for the repetition penalty.
   * @throws {InputError} If a logit that counts is NaN: the model's weights or inputs are broken.
   */
  pick(logits: Logits, seen: Iterable<number> = []): number {
    const row = this.#penalised(logits, seen);
    return "ids" in logits ? logits.ids[this.#pickOf(row, logits.sum)]! : this.#pickOf(row, undefined);
  }

  #penalised(logits: Logits, seen: Iterable<number>): ArrayLike<number> {
    const row = "ids" in logits ? logits.values : logits;
    if (this.#repetitionPenalty === 1) return row;
    if (!("ids" in logits)) return penalised(row, seen, this.#repetitionPenalty);
    const tokens = new Set(seen), places = Array.from(logits.ids).flatMap((id, i) => (tokens.has(id) ? [i] : []));
    return penalised(row, places, this.#repetitionPenalty);
  }

  /** The position of the pick in `logits`; `sum` is that of all weights, where there are more. */
  #pickOf(logits: ArrayLike<number>, sum: number | undefined): number {
    const best = argmax(logits);
    if (this.#temperature === 0 || this.#topK === 1) return best;
    const candidates = this.#candidates(logits, { largest: logits[best]!, whole: sum });
    return this.#drawn(candidates);
  }

  #drawn(candidates: number): number {
    let sum = 0;
    for (let i = 0; i < candidates; i++) sum += this.#weights[this.#order[i]!]!;
    let left = this.nextNumber * sum;
    this.#ahead = undefined;
    for (let i = 0; i < candidates; i++) {
      left -= this.#weights[this.#order[i]!]!;
      if (left < 0) return this.#order[i]!;
    }
    // Rounding can leave a rest above the last candidate.
    return this.#order[candidates - 1]!;
  }

  /** How many candidates there are in `#order` when those are left out that are far less likely than the first. */
  #candidates(logits: ArrayLike<number>, of: Weighing): number {
    const count = this.#mostLikely(logits, of);
    if (this.#minP === 0) return count;
    const order = this.#order;
    let kept = 0;
    // The likeliest token weighs 1.
    for (let i = 0; i < count; i++) if (this.#weights[order[i]!]! >= this.#minP) order[kept++] = order[i]!;
    return kept;
  }

  /** Fills `#weights` with unnormalised probabilities and `#order` with the candidates; returns how many there are. */
  #mostLikely(logits: ArrayLike<number>, { largest, whole }: Weighing): number {
    const n = logits.length;
    if (this.#weights.length !== n) {
      this.#weights = new Float64Array(n);
      this.#order = new Uint32Array(n);
    }
    const weights = this.#weights, order = this.#order;
    let sum = 0;
    for (let i = 0; i < n; i++) {
      weights[i] = Math.exp((logits[i]! - largest) / this.#temperature);
      sum += weights[i]!;
    }
    const k = this.#topK === 0 ? n : Math.min(this.#topK, n);
    // Sorting a whole vocabulary would take longer than the model. The tokens below the second bound weigh less than
    // 1 - topP of the sum together, so that the others reach topP without them; with both options only the first is sure.
    const bound = k < n
      ? kthLargest(weights, k)
      : this.#topP < 1 && whole === undefined
      ? (1 - this.#topP) * sum / n
      : 0;
    let count = 0;
    for (let i = 0; i < n; i++) if (weights[i]! >= bound) order[count++] = i;
    if (k === n && this.#topP === 1) return count;
    order.subarray(0, count).sort((a, b) => weights[b]! - weights[a]! || a - b);
    count = Math.min(count, k);
    if (this.#topP === 1) return count;
    if (k < n) {
      sum = 0;
      for (let i = 0; i < count; i++) sum += weights[order[i]!]!;
    }
    if (whole !== undefined) sum = whole;
    let reached = 0;
    for (let i = 0; i < count; i++) {
      reached += weights[order[i]!]!;
      if (reached >= this.#topP * sum) return i + 1;
    }
    return count;
  }
}

/** By what logits become weights. */
interface Weighing {
  readonly largest: number;
  /** The sum of all weights, where the logits are not all. */
  readonly whole: number | undefined;
}

/** The k-th largest value, by a heap of k whose root is the smallest. */
function kthLargest(values: Float64Array, k: number): number {
  const heap = values.slice(0, k).sort(); // sorted ascending, so a heap already
  for (let i = k; i < values.length; i++) {
    const value = values[i]!;
    if (value <= heap[0]!) continue;
    let at = 0;
    for (let child = 1; child < k; child = 2 * at + 1) {
      if (child + 1 < k && heap[child + 1]! < heap[child]!) child++;
      if (heap[child]! >= value) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = value;
  }
  return heap[0]!;
}

/**
 * The position of the largest number; the first of equals.
 *
 * @throws {InputError} If there is none, or a NaN.
 */
export function argmax(values: ArrayLike<number>): number {
  let best = 0;
  let largest = -Infinity;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (value > largest) {
      largest = value;
      best = i;
    } else if (Number.isNaN(value)) {
      throw new InputError(`Cannot pick a token: logit ${i} is NaN`, {
        hint: "check the model's weights, and its inputs at this step",
      });
    }
  }
  if (values.length === 0) throw new InputError("Cannot pick a token: there are no logits");
  return best;
}

function require(ok: boolean, name: string, value: number, range: string): void {
  if (!ok) throw new InputError(`Cannot sample with ${name} ${value}: it must be ${range}`);
}
