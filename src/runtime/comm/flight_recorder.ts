/**
 * The flight recorder: what this rank's communicators did last, kept in rings, and written as JSON when something fails.
 * `shardwise flight DIR` reads the dumps of all ranks together and says who is missing where.
 *
 * A ring's entry is a number, a reference to an operation's code and two times, written in place: some 15 ns a collective, nothing
 * allocated. Times are taken where a clock is read anyway; the fastest calls, of which a clock would be a fifth, have none.
 */
import { dirname } from "node:path";
import { type EnvRecord, filled } from "../../core/env_record.ts";
import { type CountList, decodeOperation, type OperationCode, type OperationRecord } from "./control_block.ts";

/** Collectives of a communicator that are remembered; a power of two. */
const RING = 256;

/** Where a collective is: called, under way, or over. */
export type FlightState = "enqueued" | "started" | "done";

/** One collective, in a dump. */
export interface FlightEntry {
  /** Its number in the communicator; of one that has not begun, what it will be. */
  readonly seq: number;
  readonly verb: string;
  readonly dtype?: string;
  readonly op?: string;
  /** A rank of the group. */
  readonly root?: number;
  /** Elements, where ranks must agree on them. */
  readonly count?: number;
  /** Elements of each rank, where they differ. */
  readonly counts?: CountList;
  readonly state: FlightState;
  /** When it was called, and when it was over, in milliseconds since 1970; where a clock was read. */
  readonly calledMs?: number;
  readonly endedMs?: number;
}

/** One communicator, in a dump. */
export interface FlightGroup {
  readonly name: string;
  /** Members as ranks of the job. */
  readonly ranks: readonly number[];
  /** The newest last. */
  readonly entries: readonly FlightEntry[];
  /** The last collective that each member had begun, as this rank saw it; where the engine can look. */
  readonly seen?: readonly (FlightEntry | null)[];
  /** Messages under way: `recv from 2, tag 0`. */
  readonly messages: readonly string[];
}

/** What one rank writes. */
export interface FlightDump {
  readonly format: 1;
  readonly rank: number;
  readonly worldSize: number;
  readonly attempt: number;
  readonly pid: number;
  readonly timeMs: number;
  /** Why it was written. */
  readonly reason: string;
  readonly groups: readonly FlightGroup[];
}

/** What a ring asks its communicator when it is dumped. */
export interface FlightSource {
  readonly name: string;
  readonly ranks: readonly number[];
  /** Collectives that wait for their turn. */
  readonly queued: () => readonly { readonly code: OperationCode; readonly at: number }[];
  readonly messages: () => readonly string[];
  /** The last collective that each member had begun. */
  readonly seen?: () => readonly (OperationRecord | undefined)[];
}

/** The last collectives of one communicator. */
export class FlightRing {
  #source: FlightSource;
  #codes: (OperationCode | undefined)[] = Array.from({ length: RING }, () => undefined);
  #seqs = new Int32Array(RING);
  #times = new Float64Array(2 * RING);
  #begun = 0;
  #ended = 0;

  constructor(source: FlightSource) {
    this.#source = source;
  }

  /** Collective `seq` begins; `at`: when it was called, as `performance.now()`, or 0. */
  begin(seq: number, code: OperationCode, at: number): void {
    const i = this.#begun & (RING - 1);
    this.#codes[i] = code;
    this.#seqs[i] = seq;
    this.#times[2 * i] = at;
    this.#times[2 * i + 1] = 0;
    this.#begun = (this.#begun + 1) | 0;
  }

  /** The last one is over; `at`: when, or 0. */
  end(at: number): void {
    this.#times[2 * ((this.#begun - 1) & (RING - 1)) + 1] = at;
    this.#ended = this.#begun;
  }

  /** All that is known. */
  read(): FlightGroup {
    const entries: FlightEntry[] = [];
    let seq = 0;
    for (let n = this.#begun - RING; n < this.#begun; n++) {
      const i = n & (RING - 1), code = this.#codes[i];
      if (code === undefined) continue;
      seq = this.#seqs[i]!;
      const state = n < this.#begun - 1 || this.#ended === this.#begun ? "done" : "started";
      entries.push(entryOf({ seq, ...decodeOperation(code) }, state, this.#times[2 * i]!, this.#times[2 * i + 1]!));
    }
    for (const { code, at } of this.#source.queued()) {
      seq++;
      entries.push(entryOf({ seq, ...decodeOperation(code) }, "enqueued", at, 0));
    }
    const seen = this.#source.seen?.().map((record) => record === undefined ? null : entryOf(record, "started", 0, 0));
    const { name, ranks } = this.#source;
    return { name, ranks, entries, ...(seen === undefined ? {} : { seen }), messages: this.#source.messages() };
  }
}

/** All rings of a rank, and where they are dumped. */
export class FlightRecorder {
  readonly #job: { readonly rank: number; readonly worldSize: number; readonly attempt: number };
  readonly #file: string | undefined;
  #rings = new Set<FlightRing>();
  #failed = false;
  #onSignal: (() => void) | undefined;

  /** `file`: where to write; nothing is written without one. */
  constructor(job: { readonly rank: number; readonly worldSize: number; readonly attempt: number }, file?: string) {
    this.#job = job;
    this.#file = file;
  }

  /** Writes the rings whenever the launcher forwards SIGUSR2, while a communicator is open and the event loop goes round. */
  listen(): void {
    if (this.#file === undefined || this.#onSignal !== undefined) return;
    this.#onSignal = () => this.dumpNow("SIGUSR2");
    Deno.addSignalListener("SIGUSR2", this.#onSignal);
  }

  /** A ring for a new communicator. */
  open(source: FlightSource): FlightRing {
    const ring = new FlightRing(source);
    this.#rings.add(ring);
    return ring;
  }

  /** Forgets a communicator that is closed. */
  close(ring: FlightRing): void {
    this.#rings.delete(ring);
    if (this.#rings.size > 0 || this.#onSignal === undefined) return;
    Deno.removeSignalListener("SIGUSR2", this.#onSignal);
    this.#onSignal = undefined;
  }

  /** What would be written. */
  read(reason: string): FlightDump {
    const { rank, worldSize, attempt } = this.#job;
    const groups = [...this.#rings].map((ring) => ring.read());
    return { format: 1, rank, worldSize, attempt, pid: Deno.pid, timeMs: Date.now(), reason, groups };
  }

  /**
   * Writes the rings because of `error`; the first failure stays, since what follows is its consequence. Never throws: a full disk
   * must not hide the error.
   */
  dump(error: Error): void {
    if (this.#failed) return;
    this.#failed = true;
    this.#write(`${error.name}: ${error.message}`);
  }

  /** Writes the rings because somebody asks; not over a failure's. */
  dumpNow(reason: string): void {
    if (!this.#failed) this.#write(reason);
  }

  #write(reason: string): void {
    if (this.#file === undefined) return;
    try {
      Deno.mkdirSync(dirname(this.#file), { recursive: true });
      Deno.writeTextFileSync(this.#file, `${JSON.stringify(this.read(reason))}\n`);
    } catch {
      // The error that is being reported matters more than its record.
    }
  }
}

/**
 * Where a rank's dump goes: `SHARDWISE_FLIGHT_DIR` if it is set, else beside the error file that the launcher names, which is the
 * rank's log folder where there is one; undefined without either.
 */
export function flightFile(
  env: EnvRecord,
  job: { readonly rank: number; readonly attempt: number },
): string | undefined {
  const name = `flight-${job.attempt}-${job.rank}.json`;
  if (filled(env, "SHARDWISE_FLIGHT_DIR")) return `${env.SHARDWISE_FLIGHT_DIR}/${name}`;
  return filled(env, "SHARDWISE_ERROR_FILE") ? `${dirname(env.SHARDWISE_ERROR_FILE!)}/${name}` : undefined;
}

function entryOf(record: OperationRecord, state: FlightState, called: number, ended: number): FlightEntry {
  const { seq, verb, dtype, reduceOp, root, count, counts } = record;
  return {
    seq,
    verb,
    ...(dtype === undefined ? {} : { dtype }),
    ...(reduceOp === undefined ? {} : { op: reduceOp }),
    ...(root < 0 ? {} : { root }),
    ...(count < 0 ? {} : { count }),
    ...(counts === undefined ? {} : { counts }),
    state,
    ...(called === 0 ? {} : { calledMs: Math.round(performance.timeOrigin + called) }),
    ...(ended === 0 ? {} : { endedMs: Math.round(performance.timeOrigin + ended) }),
  };
}
