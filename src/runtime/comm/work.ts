/** Collectives under way: a queue of them per communicator, and the `Work` by which a caller waits for one. */
import type { Steps } from "./collectives.ts";
import type { OperationCode } from "./control_block.ts";
import { CommunicatorError } from "./errors.ts";
import type { Meeting } from "./meeting.ts";

/** Where a work is in its life. */
export type WorkState = "queued" | "running" | "done" | "failed";

/**
 * One collective. `await` it, or wait blocking; a work that fails and was never waited for is an unhandled rejection.
 *
 * It goes on when somebody waits for it or for a later one, and whenever the event loop is free.
 */
export class Work<T = void> implements PromiseLike<T> {
  #queue: WorkQueue;
  #state: WorkState = "queued";
  #value: T | undefined;
  #error: unknown;
  #promise: Promise<T> | undefined;
  #settle: { resolve: (value: T) => void; reject: (error: unknown) => void } | undefined;

  /** @internal Made by {@linkcode WorkQueue.issue}. */
  constructor(queue: WorkQueue) {
    this.#queue = queue;
  }

  /** Whether it is done or failed. */
  get settled(): boolean {
    return this.#state === "done" || this.#state === "failed";
  }

  /** Where it is in its life. */
  get state(): WorkState {
    return this.#state;
  }

  /** Goes on as far as possible without waiting; whether it is done. @throws What it failed with. */
  test(): boolean {
    this.#queue.pump();
    if (this.#state === "failed") throw this.#observe();
    return this.#state === "done";
  }

  /** Blocks JavaScript until it is done; dead peers and the deadline still end it. @throws What it failed with. */
  waitSync(): T {
    this.#queue.runSync(this);
    if (this.#state === "failed") throw this.#observe();
    return this.#value as T;
  }

  /** Waits, leaving the event loop free. @throws What it failed with. */
  then<A = T, B = never>(
    onDone?: ((value: T) => A | PromiseLike<A>) | null,
    onFailed?: ((error: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    this.#queue.spin(this);
    return this.#asPromise().then(onDone, onFailed);
  }

  /** @internal The queue's side. */
  settle(state: "running" | "done" | "failed", result?: unknown): void {
    this.#state = state;
    if (state === "done") {
      this.#value = result as T;
      this.#settle?.resolve(result as T);
    } else if (state === "failed") {
      this.#error = result;
      if (this.#settle !== undefined) this.#settle.reject(result);
      else void this.#asPromise(); // so that nobody's failure goes unseen
    }
  }

  #asPromise(): Promise<T> {
    if (this.#promise !== undefined) return this.#promise;
    if (this.#state === "done") return this.#promise = Promise.resolve(this.#value as T);
    if (this.#state === "failed") return this.#promise = Promise.reject(this.#error);
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    this.#settle = { resolve, reject };
    return this.#promise = promise;
  }

  #observe(): unknown {
    this.#asPromise().catch(() => {});
    return this.#error;
  }
}

interface Pending {
  readonly settled: boolean;
  settle(state: "running" | "done" | "failed", result?: unknown): void;
}

interface Item {
  readonly work: Pending;
  readonly code: OperationCode;
  readonly timeoutMs: number;
  readonly start: (x: Meeting) => Steps<unknown>;
  steps: Steps<unknown> | undefined;
}

/** The collectives of one communicator, in the order in which they were called; each begins when the one before is done. */
export class WorkQueue {
  #x: Meeting;
  #items: Item[] = [];
  #driving = false;

  constructor(meeting: Meeting) {
    this.#x = meeting;
  }

  /** Whether nothing is under way. */
  get idle(): boolean {
    return this.#items.length === 0;
  }

  /** Adds a collective and begins it if it is its turn. */
  issue<T>(code: OperationCode, timeoutMs: number, start: (x: Meeting) => Steps<T>): Work<T> {
    const work = new Work<T>(this);
    this.#items.push({ work, code, timeoutMs, start, steps: undefined });
    if (this.#items.length === 1) this.pump();
    if (!this.idle && !this.#driving) {
      this.#driving = true;
      queueMicrotask(() => this.#drive());
    }
    return work;
  }

  /** Goes on as far as possible without waiting. */
  pump(): void {
    for (let item = this.#items[0]; item !== undefined; item = this.#items[0]) {
      try {
        if (item.steps === undefined) {
          this.#x.begin(item.code, item.timeoutMs);
          item.work.settle("running");
          item.steps = item.start(this.#x);
        }
        const result = item.steps.next();
        if (!result.done) return;
        this.#items.shift();
        item.work.settle("done", result.value);
      } catch (error) {
        this.#fail(error);
      }
    }
  }

  /** Blocks until `work` is done or failed; all that came before it is then done too. */
  runSync(work: Pending): void {
    while (!work.settled) {
      this.pump();
      if (work.settled) return;
      try {
        this.#x.waitSync();
      } catch (error) {
        this.#fail(error);
      }
    }
  }

  /** Blocks until nothing is under way. */
  drainSync(): void {
    const last = this.#items.at(-1);
    if (last !== undefined) this.runSync(last.work);
  }

  /** Looks for `work` to be done, for the short while that is cheaper than going to sleep. */
  spin(work: Pending): void {
    while (!work.settled) {
      this.pump();
      if (work.settled || !this.#x.spin()) return;
    }
  }

  /** Goes on from the event loop until nothing is under way. */
  async #drive(): Promise<void> {
    while (!this.idle) {
      this.pump();
      if (this.idle) break;
      try {
        await this.#x.sleep();
      } catch (error) {
        this.#fail(error);
      }
    }
    this.#driving = false;
  }

  /** All that is under way fails: after an error ranks are out of step. */
  #fail(error: unknown): void {
    const items = this.#items;
    this.#items = [];
    // An error of our own (out of memory, a bug) must not leave the others waiting.
    if (!(error instanceof CommunicatorError)) {
      this.#x.abort(new CommunicatorError("A collective failed in the middle", { cause: error }));
    }
    for (const item of items) item.work.settle("failed", error);
  }
}
