/**
 * MPI in this process: initialised once, called on this thread only, finalised when all ranks agree.
 *
 * MPI makes progress only while it is called, so whoever waits for one group also goes on with the others.
 */
import { CommunicatorError } from "../errors.ts";
import { type Handle, MPI_MAX_STRING, MPI_THREAD_FUNNELED, MpiLibrary, type MpiSymbols } from "../../../ffi/mpi.ts";
import { MpiError } from "./mpi_error.ts";

/** Something that goes on when MPI is called: a group's queue. */
export interface Progressing {
  pump(): void;
}

/** Words that calls write into, used and read before the next call. */
export interface Scratch {
  readonly flag: Int32Array<ArrayBuffer>;
  readonly int: Int32Array<ArrayBuffer>;
  readonly status: Uint8Array<ArrayBuffer>;
  /** `status` in ints. */
  readonly statusInts: Int32Array<ArrayBuffer>;
  /** Room for a handle or a pointer. */
  readonly handle: Uint8Array<ArrayBuffer>;
}

/** MPI, initialised. */
export class MpiRuntime {
  readonly library: MpiLibrary;
  readonly symbols: MpiSymbols;
  readonly scratch: Scratch;
  /** The largest tag that MPI takes. */
  readonly largestTag: number;
  /** Whether ranks outnumber cores, so that looking for messages takes the core away from who would send them. */
  readonly crowded: boolean;
  #progressing = new Set<Progressing>();
  /** Memory that MPI may still write to, although nobody waits for it any more. */
  #abandoned: unknown[] = [];
  #creating: Promise<unknown> = Promise.resolve();
  #finalized = false;
  #healthy = true;
  #sleeper = new Int32Array(new SharedArrayBuffer(4));

  private constructor(library: MpiLibrary, crowded: boolean) {
    this.library = library;
    this.symbols = library.symbols;
    this.crowded = crowded;
    const words = (n: number) => new Int32Array(new ArrayBuffer(4 * n)), status = new ArrayBuffer(64);
    this.scratch = {
      flag: words(2),
      int: words(2),
      status: new Uint8Array(status),
      statusInts: new Int32Array(status),
      handle: new Uint8Array(new ArrayBuffer(8)),
    };
    this.largestTag = this.#askLargestTag();
  }

  /** Initialises MPI. Returns when all ranks have; mpirun sees to it that they come. @throws {CommunicatorError} */
  static start(library: MpiLibrary, crowded: boolean): MpiRuntime {
    const { symbols } = library, flag = new Int32Array(1), provided = new Int32Array(1);
    symbols.MPI_Finalized(flag);
    if (flag[0] !== 0) {
      throw new CommunicatorError("Cannot join the job again: MPI is finalized, and cannot be initialised twice", {
        hint: "keep the communicator open until the program ends",
      });
    }
    symbols.MPI_Initialized(flag);
    if (flag[0] !== 0) {
      throw new CommunicatorError("Cannot join the job again: MPI is initialised in this process", {
        hint: "join once, and make more groups by split and subgroup",
      });
    }
    const code = symbols.MPI_Init_thread(null, null, MPI_THREAD_FUNNELED, provided);
    if (code !== 0) throw new CommunicatorError(`MPI_Init_thread of ${library.version} failed with code ${code}`);
    symbols.MPI_Comm_set_errhandler(library.handles.world, library.handles.errorsReturn);
    return new MpiRuntime(library, crowded);
  }

  /** @throws {MpiError} Unless `code` is success. */
  check(code: number, call: string): void {
    if (code !== 0) throw this.error(code, call);
  }

  /** The error `code` of `call`, in MPI's words. */
  error(code: number, call: string): MpiError {
    const text = new Uint8Array(MPI_MAX_STRING), length = new Int32Array(1), errorClass = new Int32Array(1);
    this.symbols.MPI_Error_string(code, text, length);
    this.symbols.MPI_Error_class(code, errorClass);
    const words = new TextDecoder().decode(text.subarray(0, length[0])).replaceAll(/\s+/g, " ").trim();
    return new MpiError(`${call} failed: ${words}`, { code, errorClass: errorClass[0]! }, {
      hint: "set SHARDWISE_COMM_CHECK=1 on all ranks to see whether they call different collectives",
    });
  }

  /** The handle that the last call wrote to `scratch.handle`. */
  takeHandle(): Handle {
    return this.library.abi.readHandle(this.scratch.handle);
  }

  /** Size and rank in `comm`. */
  place(comm: Handle): { readonly rank: number; readonly size: number } {
    const { int } = this.scratch;
    this.check(this.symbols.MPI_Comm_size(comm, int), "MPI_Comm_size");
    const size = int[0]!;
    this.check(this.symbols.MPI_Comm_rank(comm, int), "MPI_Comm_rank");
    return { rank: int[0]!, size };
  }

  /** What MPI calls this host. */
  hostName(): string {
    const name = new Uint8Array(MPI_MAX_STRING), length = new Int32Array(1);
    this.check(this.symbols.MPI_Get_processor_name(name, length), "MPI_Get_processor_name");
    return new TextDecoder().decode(name.subarray(0, length[0]));
  }

  /** A copy of `comm`, in which messages do not meet those of the original. */
  duplicate(comm: Handle): Handle {
    this.check(this.symbols.MPI_Comm_dup(comm, this.scratch.handle), "MPI_Comm_dup");
    return this.takeHandle();
  }

  /** Gives `comm` back. */
  free(comm: Handle): void {
    if (this.#finalized) return;
    const memory = new BigInt64Array(1);
    memory[0] = typeof comm === "number" ? BigInt(comm) : Deno.UnsafePointer.value(comm);
    this.symbols.MPI_Comm_free(memory);
  }

  /** Who sent the message of `scratch.status`, and its tag. */
  get status(): { readonly source: number; readonly tag: number } {
    const { abi } = this.library, ints = this.scratch.statusInts;
    return { source: ints[abi.statusSource]!, tag: ints[abi.statusTag]! };
  }

  /** Elements of `type` of the message of `scratch.status`. */
  count(type: Handle): number {
    this.check(this.symbols.MPI_Get_count(this.scratch.status, type, this.scratch.int), "MPI_Get_count");
    return this.scratch.int[0]!;
  }

  /**
   * Makes groups one after the other, in the order of the calls: MPI makes them by blocking calls, and two ranks that were in
   * those of two groups would wait for each other for ever.
   */
  inTurn<T>(make: () => Promise<T>): Promise<T> {
    const made = this.#creating.then(make);
    this.#creating = made.catch(() => {});
    return made;
  }

  /** Counts `queue` among those that go on while anybody waits. */
  attach(queue: Progressing): void {
    this.#progressing.add(queue);
  }
  /** The opposite. */
  detach(queue: Progressing): void {
    this.#progressing.delete(queue);
  }

  /** Goes on with all groups. */
  pumpAll(): void {
    for (const queue of this.#progressing) queue.pump();
  }

  /** Blocks this thread for about `ms`. */
  nap(ms: number): void {
    Atomics.wait(this.#sleeper, 0, 0, ms);
  }

  /** Keeps `memory` as long as the process lives, because MPI may still use it; MPI is not finalised any more then. */
  abandon(memory: unknown): void {
    this.#healthy = false;
    this.#abandoned.push(memory);
  }

  /** Marks that ranks are out of step: from now on MPI is not finalised, which would wait for them. */
  fail(): void {
    this.#healthy = false;
  }

  /** Whether MPI has ended. */
  get finalized(): boolean {
    return this.#finalized;
  }

  /**
   * Ends MPI, if nothing has failed. All ranks come to it, at once where they have agreed on it, else when each ends; it waits
   * for them.
   */
  finalize(): void {
    if (this.#finalized || !this.#healthy) return;
    this.#finalized = true;
    this.check(this.symbols.MPI_Finalize(), "MPI_Finalize");
  }

  #askLargestTag(): number {
    const { abi, handles } = this.library, { handle, flag } = this.scratch;
    const code = this.symbols.MPI_Comm_get_attr(handles.world, abi.tagUpperBound, handle, flag);
    const address = new BigUint64Array(handle.buffer)[0]!;
    if (code !== 0 || flag[0] === 0 || address === 0n) return 32767; // what the standard promises
    return new Deno.UnsafePointerView(Deno.UnsafePointer.create(address)!).getInt32();
  }
}
