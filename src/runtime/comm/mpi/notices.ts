/**
 * What ranks tell each other beside the collectives, on a communicator of their own: "I give up", and "who is where?" from
 * a rank that has waited too long. Ranks look for notices while they wait, so one that computes answers nothing; that is what
 * tells it from one that waits too.
 */
import type { Handle } from "../../../ffi/mpi.ts";
import type { MpiRuntime } from "./mpi_runtime.ts";

/** One notice. */
export type Notice =
  /** Tell me where you are; and this is where I am. */
  | { readonly kind: "ask"; readonly group: string; readonly from: number; readonly seq: number; readonly what: string }
  /** I am here. */
  | {
    readonly kind: "here";
    readonly group: string;
    readonly from: number;
    readonly seq: number;
    readonly what: string;
  }
  /** I give up: because ranks differ, because I waited for the `missing`, because the `missing` one has ended, or for reasons of my own. */
  | {
    readonly kind: "abort";
    readonly group: string;
    readonly from: number;
    readonly cause: "mismatch" | "timeout" | "lost" | "own";
    readonly missing: readonly number[];
    readonly why: string;
  };

/** A group, as notices find it. */
export interface Listener {
  readonly name: string;
  /** Takes what rank `from` of the group tells. */
  hear(notice: Notice): void;
}

const TAG = 1; // higher ones are of meetings, see meet.ts

/** The notices of a process. */
export class Notices {
  #runtime: MpiRuntime;
  #comm: Handle;
  #groups = new Map<string, Listener>();
  #sending: { readonly request: Uint8Array<ArrayBuffer>; readonly bytes: Uint8Array<ArrayBuffer> }[] = [];
  #polled = 0;

  /** `comm`: a communicator of all ranks on which nobody else talks. */
  constructor(runtime: MpiRuntime, comm: Handle) {
    this.#runtime = runtime;
    this.#comm = comm;
  }

  /** Hears what is for `group`. */
  add(group: Listener): void {
    this.#groups.set(group.name, group);
  }
  /** The opposite. */
  remove(group: Listener): void {
    if (this.#groups.get(group.name) === group) this.#groups.delete(group.name);
  }

  /** Sends `notice` to ranks of the job. Short messages leave at once; nobody waits. */
  tell(notice: Notice, dests: readonly number[]): void {
    if (this.#runtime.finalized) return;
    const { symbols, library } = this.#runtime;
    for (const dest of dests) {
      const bytes = new TextEncoder().encode(JSON.stringify(notice)), request = new Uint8Array(new ArrayBuffer(8));
      const code = symbols.MPI_Isend(bytes, bytes.length, library.handles.byte, dest, TAG, this.#comm, request);
      if (code === 0) this.#sending.push({ request, bytes });
    }
    this.#flush();
  }

  /** Looks for notices, at most every few milliseconds. */
  poll(now: number): void {
    if (now - this.#polled < 5 || this.#runtime.finalized) return;
    this.#polled = now;
    const { symbols, library, scratch } = this.#runtime, { abi } = library;
    this.#flush();
    for (;;) {
      const code = symbols.MPI_Iprobe(abi.anySource, TAG, this.#comm, scratch.flag, scratch.status);
      if (code !== 0 || scratch.flag[0] === 0) return;
      const { source } = this.#runtime.status, length = this.#runtime.count(library.handles.byte);
      const bytes = new Uint8Array(new ArrayBuffer(length)), request = new Uint8Array(new ArrayBuffer(8));
      symbols.MPI_Irecv(bytes, length, library.handles.byte, source, TAG, this.#comm, request);
      do symbols.MPI_Test(request, scratch.flag, scratch.status); while (scratch.flag[0] === 0); // it is here already
      const notice = JSON.parse(new TextDecoder().decode(bytes)) as Notice;
      this.#groups.get(notice.group)?.hear(notice);
    }
  }

  #flush(): void {
    const { symbols, scratch } = this.#runtime;
    this.#sending = this.#sending.filter(({ request }) => {
      symbols.MPI_Test(request, scratch.flag, scratch.status);
      return scratch.flag[0] === 0;
    });
  }
}
