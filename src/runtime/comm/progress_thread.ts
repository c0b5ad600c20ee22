/**
 * All-reduces that go on while JavaScript computes: a thread per communicator, made at the first of them, which has a group of its
 * own with the other ranks' threads, and reads and writes the caller's buffers where they lie.
 *
 * Jobs run in the order of calls. They are counted apart from the communicator's other collectives, so that neither waits for the
 * other. A thread pays where ranks are fewer than cores; where all cores compute, the work only changes its place.
 */
import { Worker } from "node:worker_threads";
import type { ReduceOp, View } from "./buffers.ts";
import { CommunicatorError } from "./errors.ts";
import {
  DONE,
  ERROR_BYTES,
  GIVEN_UP,
  PROGRESS_WORDS,
  type ProgressMessage,
  type ProgressStart,
  reviveError,
  SHARED_BYTES,
} from "./progress_protocol.ts";
import { type Pending, type Runner, Work } from "./work.ts";

interface Job {
  readonly work: Work;
  /** Kept, so that the memory stays where the thread writes. */
  readonly buffers: readonly View[];
}

/** A communicator's thread. */
export class ProgressThread implements Runner {
  #worker: Worker;
  #words: Int32Array;
  #text: Uint8Array;
  #jobs: Job[] = [];
  #taken = 0;
  #failure: CommunicatorError | undefined;
  #onFailure: (error: CommunicatorError) => void;
  #stopped = false;
  #left = Promise.withResolvers<void>();

  /** Starts it; `onFailure` is told of the first error. */
  constructor(start: Omit<ProgressStart, "kind" | "shared">, onFailure: (error: CommunicatorError) => void) {
    const shared = new SharedArrayBuffer(SHARED_BYTES);
    this.#words = new Int32Array(shared, 0, PROGRESS_WORDS);
    this.#text = new Uint8Array(shared, PROGRESS_WORDS * 4);
    this.#onFailure = onFailure;
    this.#worker = new Worker(new URL("./progress_worker.ts", import.meta.url));
    this.#worker.on("message", (message) => message === "left" ? this.#left.resolve() : this.pump());
    this.#worker.on(
      "error",
      (error) => this.#fail(new CommunicatorError("The progress thread ended", { cause: error })),
    );
    this.#worker.unref(); // alone it is no reason to live
    this.#post({ kind: "start", shared, ...start });
  }

  /** Reduces all ranks' `send` into `recv`, which may be the same. */
  allReduce(send: View, recv: View, o: { readonly op: ReduceOp; readonly timeoutMs: number }): Work {
    const work = new Work(this);
    if (this.#failure !== undefined) {
      work.settle("failed", this.#failure);
      return work;
    }
    work.settle("running");
    this.#jobs.push({ work, buffers: [send, recv] });
    this.#worker.ref();
    this.#post({
      ...{ kind: "job", send: addressOf(send.bytes), recv: addressOf(recv.bytes) },
      ...{ bytes: send.bytes.length, dtype: send.dtype, ...o },
    });
    return work;
  }

  /** Waits until nothing is under way, and leaves the threads' group. */
  async close(): Promise<void> {
    await Promise.allSettled(this.#jobs.map((job) => job.work));
    this.stop(new CommunicatorError("The communicator was closed"));
    this.#worker.ref();
    await this.#left.promise;
  }

  /** Ends the thread; what is under way fails with `error`, and stops the other ranks' threads. */
  stop(error: CommunicatorError): void {
    if (this.#stopped) return;
    this.#stopped = true;
    if (this.#jobs.length > 0) {
      Atomics.store(this.#words, GIVEN_UP, 1);
      this.#fail(error);
    }
    this.#failure ??= error;
    this.#post({ kind: "leave" });
    this.#worker.unref();
  }

  /** Settles what the thread has done. */
  pump(): void {
    const done = Atomics.load(this.#words, DONE), bytes = Atomics.load(this.#words, ERROR_BYTES);
    if (bytes > 0) return this.#fail(reviveError(new TextDecoder().decode(this.#text.slice(0, bytes))));
    for (; this.#taken !== done; this.#taken = (this.#taken + 1) | 0) this.#jobs.shift()?.work.settle("done");
    if (this.#jobs.length === 0) this.#worker.unref();
  }

  runSync(work: Pending, until = Infinity): void {
    for (;;) {
      const done = Atomics.load(this.#words, DONE);
      this.pump();
      const left = until - performance.now();
      if (work.settled || left <= 0) return;
      Atomics.wait(this.#words, DONE, done, Math.min(left, 1000));
    }
  }

  /** Whoever awaits gives the event loop to others; the thread tells when it is done. */
  spin(): void {
    this.pump();
  }

  kick(): void {
    this.pump();
  }

  #post(message: ProgressMessage): void {
    this.#worker.postMessage(message);
  }

  #fail(error: CommunicatorError): void {
    if (this.#failure === undefined) this.#onFailure(this.#failure = error);
    for (const { work } of this.#jobs.splice(0)) work.settle("failed", this.#failure);
    this.#worker.unref();
  }
}

function addressOf(bytes: Uint8Array): bigint {
  return Deno.UnsafePointer.value(Deno.UnsafePointer.of(bytes as Uint8Array<ArrayBuffer>));
}
