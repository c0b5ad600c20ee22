/** Taking down what a rank does, as it does it: numbers in arrays and nothing else, so that a step costs no more than two clock readings a span. */

/** What a recorder has taken down: times in milliseconds on the rank's own clock. */
export interface Recording {
  /** Of each step: begin and end. */
  readonly steps: readonly (readonly [start: number, end: number])[];
  /** Of each segment and barrier, in order: the step it belongs to, its position in the program, begin and end. */
  readonly parts: readonly (readonly [step: number, index: number, start: number, end: number])[];
}

/** Takes down the parts of steps. */
export class Recorder {
  readonly #steps: (readonly [number, number])[] = [];
  readonly #parts: (readonly [number, number, number, number])[] = [];

  /** The clock of all times: milliseconds. */
  now(): number {
    return performance.now();
  }

  /** Segment or barrier `index` of the program ran from `start` to now. */
  part(index: number, start: number): void {
    this.#parts.push([this.#steps.length, index, start, this.now()]);
  }

  /** A step ran from `start` to now. */
  step(start: number): void {
    this.#steps.push([start, this.now()]);
  }

  /** What was taken down so far. */
  get recording(): Recording {
    return { steps: this.#steps, parts: this.#parts.filter(([step]) => step < this.#steps.length) };
  }
}
