/** How a communicator made of others waits: for the work of theirs that is under way. */
import type { OperationCode } from "../control_block.ts";
import { CommunicatorError } from "../errors.ts";
import type { AnyWork, Waiting } from "../work.ts";

/** How long it waits for one work before it goes on with others, in milliseconds. */
const SLICE_MS = 2;

/** What it waits with. */
export interface HybridWaitingOptions {
  /** Stops all communicators that it is made of. */
  readonly abort: (reason: string) => void;
  /** Goes on with what else this process has under way. */
  readonly pumpAll: () => void;
}

/** Where collectives made of others' collectives stand. */
export class HybridWaiting implements Waiting {
  readonly spinMs = 0;
  #o: HybridWaitingOptions;
  #work: AnyWork | undefined;
  #timeoutMs = Infinity;
  #failure: CommunicatorError | undefined;

  constructor(options: HybridWaitingOptions) {
    this.#o = options;
  }

  /** How long the collective under way may wait. */
  get timeoutMs(): number {
    return this.#timeoutMs;
  }

  begin(_op: OperationCode, timeoutMs: number): void {
    if (this.#failure !== undefined) throw this.#failure;
    this.#timeoutMs = timeoutMs;
  }

  /** The communicators beneath remember what they did. */
  end(): void {}

  /** Waits for `work` from now on; its failure is looked after. */
  start(work: AnyWork): void {
    this.#work = work;
    work.whenSettled(() => {});
  }

  passed(): boolean {
    const work = this.#work;
    if (work === undefined) return true;
    if (!work.settled) work.pump();
    if (!work.settled) return false;
    this.#work = undefined;
    if (work.state === "failed") this.#fail(work.error);
    return true;
  }

  waitSync(): void {
    while (!this.passed()) {
      this.#work?.runSync(performance.now() + SLICE_MS);
      this.#o.pumpAll();
    }
  }

  spin(): boolean {
    this.#work?.spin();
    return this.passed();
  }

  relax(): void {}

  async sleep(ready: () => boolean): Promise<void> {
    if (ready()) return;
    const work = this.#work;
    if (work !== undefined) await new Promise<void>((done) => work.whenSettled(done));
  }

  nap(ready: () => boolean): void {
    if (ready()) return;
    this.#work?.runSync(performance.now() + SLICE_MS);
    this.#o.pumpAll();
  }

  check(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  abort(error: CommunicatorError): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#o.abort(error.message);
  }

  /** Those of the ranks that wait elsewhere must hear of it too. */
  #fail(error: unknown): never {
    const failure = error instanceof CommunicatorError
      ? error
      : new CommunicatorError("A collective failed in the middle", { cause: error });
    this.abort(failure);
    throw failure;
  }
}
