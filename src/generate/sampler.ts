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

  /** How many of the largest logits decide; undefined where all of a row may. */
  get candidates(): number | undefined {
    if (this.#repetitionPenalty !== 1) return undefined;
    if (this.#temperature === 0) return 1;
    return this.#topK > 0 && this.#topK <= MOST_CANDIDATES ? this.#topK : undefined;
  }

  /**
   * The id of the next token.
   *
   * @param logits One logit a token of the vocabulary, or as many of the largest as `candidates` says, from which it is the same.
   * @param seen The tokens of the text so far, for the repetition penalty.
   * @throws {InputError} If a logit that counts is NaN: the model's weights or inputs are broken.
   */
  pick(logits: Logits, seen: Iterable<number> = []): number {
    return "ids" in logits ? logits.ids[this.#pickOf(logits.values, seen)]! : this.#pickOf(logits, seen);
  }

  #pickOf(row: ArrayLike<number>, seen: Iterable<number>): number {
    const logits = this.#repetitionPenalty === 1 ? row : penalised(row, seen, this.#repetitionPenalty);
    const best = argmax(logits);
    if (this.#temperature === 0 || this.#topK === 1) return best;
    const candidates = this.#candidates(logits, logits[best]!);
    let sum = 0;
    for (let i = 0; i < candidates; i++) sum += this.#weights[this.#order[i]!]!;
    let left = this.#random.next() * sum;
    for (let i = 0; i < candidates; i++) {
      left -= this.#weights[this.#order[i]!]!;
      if (left < 0) return this.#order[i]!;
    }
    // Rounding can leave a rest above the last candidate.
    return this.#order[candidates - 1]!;
  }

  /** How many candidates there are in `#order` when those are left out that are far less likely than the first. */
  #candidates(logits: ArrayLike<number>, largest: number): number {
    const count = this.#mostLikely(logits, largest);
    if (this.#minP === 0) return count;
    const order = this.#order;
    let kept = 0;
    // The likeliest token weighs 1.
    for (let i = 0; i < count; i++) if (this.#weights[order[i]!]! >= this.#minP) order[kept++] = order[i]!;
    return kept;
  }

  /** Fills `#weights` with unnormalised probabilities and `#order` with the candidates; returns how many there are. */
  #mostLikely(logits: ArrayLike<number>, largest: number): number {
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
    const bound = k < n ? kthLargest(weights, k) : this.#topP < 1 ? (1 - this.#topP) * sum / n : 0;
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
    let reached = 0;
    for (let i = 0; i < count; i++) {
      reached += weights[order[i]!]!;
      if (reached >= this.#topP * sum) return i + 1;
    }
    return count;
  }
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
