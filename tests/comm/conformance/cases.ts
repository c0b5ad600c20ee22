/**
 * One law for all engines: what a communicator must do, run over one that exists already. Every rank calls it with the same
 * arguments; it throws at the first difference from a plain reference, which each rank computes from all ranks' inputs.
 */
import { createHash } from "node:crypto";
import { COMM_DTYPES, type CommDType, REDUCE_OPS, type TypedBuffer } from "../../../src/runtime/comm/buffers.ts";
import type { Communicator, Verb } from "../../../src/runtime/comm/communicator.ts";
import { groupCases } from "./groups.ts";
import { messageCases } from "./messages.ts";
import { moveCases } from "./moves.ts";
import { objectCases } from "./objects.ts";
import { reductionCases } from "./reductions.ts";
import { bytesIn, difference, type Tolerance } from "./tensors.ts";

/** What to run. */
export interface ConformanceOptions {
  /** Elements per rank; default 0, 1, 3, 1023. Larger ones than 5000 only sum, and only f32 and u8. */
  readonly sizes?: readonly number[];
  readonly dtypes?: readonly CommDType[];
  /** Of other operations than sums, run every n-th of their combinations with dtypes; default 1: all. */
  readonly sparse?: number;
  /**
   * Whether results must be those of reducing in the order of ranks, bit by bit, NaN and -0 too; default for engines of ours.
   * Else floats may differ by roundings, and what comes of NaN and infinity is not looked at.
   */
  readonly exact?: boolean;
}

/** What was done. */
export interface ConformanceResult {
  /** Comparisons. */
  readonly cases: number;
  /** Cases left out because `supports` says so, by verb. */
  readonly unsupported: Readonly<Record<string, number>>;
  /** SHA-256 of all results that must have the same bits on all ranks and at every run; compared between ranks already. */
  readonly hash: string;
}

/** Runs all cases over `comm`. @throws {Error} At the first difference. */
export async function conformanceCases(
  comm: Communicator,
  options: ConformanceOptions = {},
): Promise<ConformanceResult> {
  const { sizes = [0, 1, 3, 1023], dtypes = COMM_DTYPES, sparse = 1 } = options;
  const own = comm.backend === "shm" || comm.backend === "local";
  const run = new Run(comm, options.exact ?? own);
  for (const n of sizes) {
    const large = n > 5000;
    for (const dtype of dtypes) {
      if (large && dtype !== "f32" && dtype !== "u8") continue; // another way through the code, but the same loops
      for (const op of REDUCE_OPS) {
        const nth = dtypes.indexOf(dtype) + REDUCE_OPS.indexOf(op);
        if (op !== "sum" && (large || (n > 3 && nth % sparse !== 0))) continue;
        await reductionCases(run, { dtype, n, op });
      }
      await moveCases(run, dtype, n);
    }
  }
  await messageCases(run);
  await objectCases(run);
  await groupCases(run);
  return await run.finish();
}

/** A conformance run under way. */
export class Run {
  readonly comm: Communicator;
  readonly exact: boolean;
  #cases = 0;
  #unsupported: Record<string, number> = {};
  #hash = createHash("sha256");

  constructor(comm: Communicator, exact: boolean) {
    this.comm = comm;
    this.exact = exact;
  }

  /** Whether the engine has `verb` for this; counts what it has not. */
  supports(verb: Verb, dtype: CommDType, op?: Parameters<Communicator["supports"]>[1]): boolean {
    const yes = this.comm.supports(dtype, op, verb);
    if (!yes) this.#unsupported[verb] = (this.#unsupported[verb] ?? 0) + 1;
    return yes;
  }

  /** @throws {Error} Unless `found` is `expected`. */
  equal(
    what: string,
    found: TypedBuffer,
    expected: Uint8Array,
    o: { readonly tolerance?: Tolerance; readonly inputs?: readonly Uint8Array[] } = {},
  ): void {
    this.#cases++;
    const tolerance = this.exact ? undefined : o.tolerance;
    const text = difference(found, expected, { ...o, tolerance });
    if (text === undefined) return;
    const { rank, size, backend } = this.comm;
    throw new Error(`${what} ${found.dtype} of ${size} ranks over ${backend}, at rank ${rank}: ${text}`);
  }

  /** @throws {Error} Unless both print the same. */
  same(what: string, found: unknown, expected: unknown): void {
    this.#cases++;
    const text = (v: unknown) => Deno.inspect(v, { depth: 9, strAbbreviateSize: Infinity });
    if (text(found) === text(expected)) return;
    throw new Error(
      `${what}, at rank ${this.comm.rank}: ${text(found).slice(0, 500)}, expected ${text(expected).slice(0, 500)}`,
    );
  }

  /** @throws {Error} Unless `calls` is refused with an error of class `name`. */
  async refused(what: string, name: string, calls: () => unknown): Promise<void> {
    this.#cases++;
    try {
      await calls();
    } catch (error) {
      if (error instanceof Error && error.name === name) return;
      throw error;
    }
    throw new Error(`${what} was not refused with ${name}`);
  }

  /** Takes the bits of `result` in, which must be the same on all ranks and at every run. */
  note(result: TypedBuffer): void {
    this.#hash.update(bytesIn(result));
  }

  /** Compares the ranks' hashes. */
  async finish(): Promise<ConformanceResult> {
    const hash = this.#hash.digest("hex");
    const all = await this.comm.objects.allGather(hash);
    this.same("the hashes of the results that all ranks have", new Set(all).size, 1);
    return { cases: this.#cases, unsupported: this.#unsupported, hash };
  }
}
