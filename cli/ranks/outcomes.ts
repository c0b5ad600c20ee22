/**
 * Errors of a case, told to all ranks before they go on.
 *
 * Most errors are alike on all ranks, as all are given the same. One that a rank meets alone (its part of a layer, its GPU's
 * memory) would leave it a case ahead, and the others waiting for it in the middle of one.
 */
import { describeError, ShardwiseError } from "../../src/core/errors.ts";
import type { Communicator } from "../../src/runtime/comm/communicator.ts";
import { CommunicatorError } from "../../src/runtime/comm/errors.ts";

/** How long a rank that has failed waits for the others to fail or to end well: what is alike happens at about one time. */
const ALONE_MS = 10_000;

/** What tells ranks how the others fared: a group of its own, as the model's may be in the middle of something. */
export class Outcomes {
  readonly #comm: Communicator;
  readonly #aloneMs: number;

  private constructor(comm: Communicator, aloneMs: number) {
    this.#comm = comm;
    this.#aloneMs = aloneMs;
  }

  /** All ranks call it together. */
  static async open(comm: Communicator, aloneMs: number = ALONE_MS): Promise<Outcomes> {
    return new Outcomes(comm.size === 1 ? comm : (await comm.split(0, comm.rank, { name: "outcomes" }))!, aloneMs);
  }

  /**
   * What `run` gives, once it has given something on every rank. Otherwise, what it gave on some is left to the process's end: closing a
   * model takes all of its ranks.
   *
   * @throws The rank's own error, or one that names the first rank that failed; then all go on together. @throws {CommunicatorError} If
   * this rank fails while others are still at it: it must end, so that they do.
   */
  async of<T>(run: () => Promise<T>): Promise<T> {
    let result: { readonly value: T } | undefined, problem: unknown;
    try {
      result = { value: await run() };
    } catch (error) {
      if (error instanceof CommunicatorError) throw error;
      problem = error;
    }
    const said = await this.#exchange(result ? "" : describeError(problem)).catch((lost) => {
      throw result ? lost : alone(problem);
    });
    const first = said.findIndex((text) => text !== "");
    if (first < 0) return result!.value;
    throw result ? new ShardwiseError(`rank ${first}, and not all others: ${said[first]}`) : problem;
  }

  #exchange(text: string): Promise<string[]> {
    return this.#comm.objects.allGather(text, text === "" ? {} : { timeoutMs: this.#aloneMs });
  }
}

function alone(problem: unknown): CommunicatorError {
  return new CommunicatorError(`This rank failed, and others did not: ${describeError(problem)}`, { cause: problem });
}
