/** Collectives under way: a queue of them per communicator, and the `Work` by which a caller waits for one. */
import type { Steps } from "./collectives.ts";
import type { OperationCode } from "./control_block.ts";
import { CommunicatorError } from "./errors.ts";
import type { Meeting } from "./meeting.ts";
import { doneOf, type Finished, firstOf } from "./work_sets.ts";

/** Who keeps works going. */
export interface Runner {
  /** Goes on as far as possible without waiting. */
  pump(): void;
  /** Blocks until `work` is done or failed, or until `performance.now()` is `until`. */
  runSync(work: Pending, until?: number): void;
  /** Looks for `work` to be done, for the short while that is cheaper than going to sleep. */
  spin(work: Pending): void;
  /** Goes on now as far as possible, and from the event loop until nothing is under way. */
  kick(): void;
}

/** Works beside the queue of collectives, in an order of their own. */
export interface Side {
  readonly busy: boolean;
  /** Whether anything went on. */
  pump(): boolean;
  /** @throws {CommunicatorError} If waiting makes no sense any more. */
  check(): void;
  /** All of it fails; `quietly`: whoever never waits for it is not to hear of it. */
  fail(error: unknown, quietly?: boolean): void;
}

/** A work, as a runner sees it. */
export interface Pending {
  readonly settled: boolean;
  settle(state: "running" | "done" | "failed", result?: unknown): void;
}

/** A work, as others see it that wait for it whatever it gives. */
export type AnyWork = Pick<
  Work<unknown>,
  "settled" | "state" | "error" | "pump" | "spin" | "runSync" | "whenSettled"
>;

/** Where a work is in its life. */
export type WorkState = "queued" | "running" | "done" | "failed";

/**
 * One collective. `await` it, or wait blocking; a work that fails and was never waited for is an unhandled rejection.
 *
 * It goes on when somebody waits for it or for a later one, and whenever the event loop is free.
 */
export class Work<T = void> implements PromiseLike<T> {
  #queue: Runner;
  #state: WorkState = "queued";
  #value: T | undefined;
  #error: unknown;
  #promise: Promise<T> | undefined;
  #settle: { resolve: (value: T) => void; reject: (error: unknown) => void } | undefined;
  #onSettled: (() => void) | undefined;
  #watched = false;

  /** @internal Made by a queue, which keeps it going. */
  constructor(queue: Runner) {
    this.#queue = queue;
  }

  /** Waits for all. @throws What the first that fails failed with. */
  static all<T>(works: readonly Work<T>[]): Promise<T[]> {
    return Promise.all(works);
  }

  /** Waits for the first that is done; the others go on. @throws {InputError} If there is none. @throws What it failed with. */
  static any<T>(works: readonly Work<T>[]): Promise<Finished<T>> {
    return firstOf(works);
  }

  /** Waits until one is done, and gives all that are; the others go on. @throws What one of them failed with. */
  static some<T>(works: readonly Work<T>[]): Promise<Finished<T>[]> {
    return doneOf(works);
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

  /**
   * Blocks JavaScript until it is done, at most `timeoutMs`; dead peers and the work's own deadline end it earlier. After
   * `timeoutMs` the work still goes on, and can be waited for again.
   *
   * Signals that nobody listens to act at once. Listeners, like timers, run only after it: a program that must react to a
   * signal within a time awaits instead, or calls this with a `timeoutMs` and lets the event loop run between the calls.
   *
   * @throws {DOMException} `TimeoutError` when the time is over. @throws What it failed with.
   */
  waitSync(options: { readonly timeoutMs?: number } = {}): T {
    const { timeoutMs } = options;
    this.#queue.runSync(this, timeoutMs === undefined ? undefined : performance.now() + timeoutMs);
    if (!this.settled) throw new DOMException(`The work was not done within ${timeoutMs} ms`, "TimeoutError");
    if (this.#state === "failed") throw this.#observe();
    return this.#value as T;
  }

  /**
   * Waits at most `timeoutMs`, or until `signal` is aborted. The work itself goes on: other ranks count on it, so it can be
   * waited for again, but not taken back.
   *
   * @throws {DOMException} `TimeoutError` when the time is over, or the signal's reason. @throws What the work failed with.
   */
  async wait(options: { readonly timeoutMs?: number; readonly signal?: AbortSignal } = {}): Promise<T> {
    const signals = options.signal === undefined ? [] : [options.signal];
    const timer = new AbortController();
    const id = options.timeoutMs === undefined ? undefined : setTimeout(() => {
      timer.abort(new DOMException(`The work was not done within ${options.timeoutMs} ms`, "TimeoutError"));
    }, options.timeoutMs);
    const signal = AbortSignal.any([...signals, timer.signal]);
    const { promise, reject } = Promise.withResolvers<never>();
    const stop = () => reject(signal.reason);
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop);
    try {
      return await Promise.race([promise, this.then()]);
    } finally {
      clearTimeout(id);
      signal.removeEventListener("abort", stop);
    }
  }

  /** Waits, leaving the event loop free. @throws What it failed with. */
  then<A = T, B = never>(
    onDone?: ((value: T) => A | PromiseLike<A>) | null,
    onFailed?: ((error: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    this.#queue.spin(this);
    return this.#asPromise().then(onDone, onFailed);
  }

  /** @internal Goes on without waiting. */
  pump(): void {
    this.#queue.pump();
  }
  /** @internal Looks for a while. */
  spin(): void {
    this.#queue.spin(this);
  }
  /** @internal Blocks until it is settled, or the time is `until`; never throws its error. */
  runSync(until?: number): void {
    this.#queue.runSync(this, until);
  }

  /** @internal What it failed with. */
  get error(): unknown {
    return this.#error;
  }

  /** @internal Calls `callback` once it is done or failed; `watching`: who asks so looks after the failure. */
  whenSettled(callback: () => void, options: { readonly watching: boolean } = { watching: true }): void {
    if (options.watching) {
      this.#watched = true;
      if (this.#state === "failed") this.#observe();
    }
    if (this.settled) return callback();
    const before = this.#onSettled;
    this.#onSettled = before === undefined ? callback : () => {
      before();
      callback();
    };
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
      else if (!this.#watched) void this.#asPromise(); // so that nobody's failure goes unseen
    } else return;
    this.#onSettled?.();
    this.#onSettled = undefined;
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

/** What a queue needs of an engine: where its collectives stand, and how to wait for them. */
export type Waiting = Pick<
  Meeting,
  "begin" | "end" | "passed" | "waitSync" | "spin" | "spinMs" | "relax" | "sleep" | "nap" | "check" | "abort"
>;

interface Item<X> {
  readonly work: Pending & Pick<AnyWork, "whenSettled">;
  readonly code: OperationCode;
  readonly timeoutMs: number;
  /** When it was called, as `performance.now()`. */
  readonly at: number;
  readonly start: (x: X) => Steps<unknown>;
  steps: Steps<unknown> | undefined;
}

/** The collectives of one communicator, in the order in which they were called; each begins when the one before is done. */
export class WorkQueue<X extends Waiting = Meeting> implements Runner {
  #x: X;
  #items: Item<X>[] = [];
  #side: Side | undefined;
  #driving = false;

  constructor(waiting: X) {
    this.#x = waiting;
  }

  /** Keeps `side` going as well. */
  attach(side: Side): void {
    this.#side = side;
  }

  /** Whether no collective is under way. */
  get idle(): boolean {
    return this.#items.length === 0;
  }

  /** What has not begun yet. */
  get queued(): readonly { readonly code: OperationCode; readonly at: number }[] {
    return this.#items.filter((item) => item.steps === undefined);
  }

  /** Adds a collective and begins it if it is its turn. */
  issue<T>(code: OperationCode, timeoutMs: number, start: (x: X) => Steps<T>): Work<T> {
    const work = new Work<T>(this);
    this.#items.push({ work, code, timeoutMs, at: performance.now(), start, steps: undefined });
    if (this.#items.length === 1) this.pump();
    if (!this.idle) this.#startDriving();
    return work;
  }

  kick(): void {
    this.pump();
    if (this.#busy) this.#startDriving();
  }

  pump(): void {
    this.#side?.pump();
    for (let item = this.#items[0]; item !== undefined; item = this.#items[0]) {
      try {
        if (item.steps === undefined) {
          this.#x.begin(item.code, item.timeoutMs, item.at);
          item.work.settle("running");
          item.steps = item.start(this.#x);
        }
        const result = item.steps.next();
        if (!result.done) return;
        this.#items.shift();
        this.#x.end(performance.now());
        item.work.settle("done", result.value);
      } catch (error) {
        this.#fail(error);
      }
    }
  }

  runSync(work: Pending, until?: number): void {
    while (!work.settled) {
      this.pump();
      if (work.settled) return;
      if (until !== undefined && performance.now() >= until) return;
      try {
        // Without messages or a limit the barrier alone is waited for, which is faster.
        if (!this.#side?.busy && until === undefined) this.#x.waitSync();
        else if (!this.#look(work)) {
          this.#x.nap(this.#ready);
          this.#check();
        }
      } catch (error) {
        this.#fail(error);
      }
    }
  }

  /** Blocks until no collective is under way. */
  drainSync(): void {
    const last = this.#items.at(-1);
    if (last !== undefined) this.runSync(last.work);
  }

  spin(work: Pending): void {
    while (!work.settled) {
      this.pump();
      if (work.settled) return;
      try {
        if (this.#side?.busy) return void this.#look(work);
        if (!this.#x.spin()) return;
      } catch (error) {
        return this.#fail(error);
      }
    }
  }

  /** Looks for `work` to be done for a while, when that may depend on messages. */
  #look(work: Pending): boolean {
    for (const end = performance.now() + this.#x.spinMs; !work.settled && performance.now() < end;) {
      this.pump();
      this.#x.relax();
    }
    return work.settled;
  }

  get #busy(): boolean {
    return !this.idle || this.#side?.busy === true;
  }

  /** Whether there is something to do: asked by a sleeper after it has told that it is going to sleep. */
  #ready = (): boolean => {
    const moved = this.#side?.pump() ?? false;
    return moved || (!this.idle && this.#x.passed());
  };

  #startDriving(): void {
    if (this.#driving) return;
    this.#driving = true;
    queueMicrotask(() => this.#drive());
  }

  async #drive(): Promise<void> {
    while (this.#busy) {
      this.pump();
      if (!this.#busy) break;
      try {
        await this.#x.sleep(this.#ready);
        this.#check();
      } catch (error) {
        this.#fail(error);
      }
    }
    this.#driving = false;
  }

  #check(): void {
    if (!this.idle && !this.#x.passed()) this.#x.check();
    this.#side?.check();
  }

  /**
   * Nothing goes on any more, since the memory that it needs is gone. What is under way fails, but only for who waits for it: on the
   * way out of an error, that error is what a user should see.
   */
  close(error: CommunicatorError): void {
    const items = this.#items;
    this.#items = [];
    for (const { work } of items) {
      work.whenSettled(() => {});
      work.settle("failed", error);
    }
    this.#side?.fail(error, true);
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
    this.#side?.fail(error);
  }
}
