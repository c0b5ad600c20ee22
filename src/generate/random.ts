/**
 * Random numbers that are the same on every rank, machine and run.
 *
 * `Math.random()` cannot be seeded, and ranks that sample different tokens would feed different models. Source: sfc32 of
 * Chris Doty-Humphrey's PractRand, seeded as its author advises (12 rounds of mixing).
 */

/** A stream of numbers, each uniform in [0, 1) with 32 bits. */
export class RandomStream {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  /** @param seed A safe integer; both of its 32-bit halves count. */
  constructor(seed: number) {
    if (!Number.isSafeInteger(seed)) {
      throw new RangeError(`Cannot seed random numbers with ${seed}: expected a whole number up to 2^53`);
    }
    this.#a = 0;
    this.#b = seed | 0;
    this.#c = Math.floor(seed / 2 ** 32) | 0;
    for (let round = 0; round < 12; round++) this.next();
  }

  /** The next number. */
  next(): number {
    const t = (this.#a + this.#b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + t | 0;
    return (t >>> 0) / 2 ** 32;
  }
}
