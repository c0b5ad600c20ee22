/** Several works as one: done when all are, failed when one is. */
import { type AnyWork, type Pending, type Runner, Work } from "./work.ts";

/**
 * One work for all of `works`. It fails with the first error, once
 * all have ended, so that their buffers are free then; the failures of the single works count as seen.
 */
export function workOfAll(works: readonly AnyWork[]): Work {
  const runner = new GroupRunner(works), all = new Work(runner);
  runner.watch(all);
  return all;
}

class GroupRunner implements Runner {
  #works: readonly AnyWork[];
  #open: number;

  constructor(works: readonly AnyWork[]) {
    this.#works = works;
    this.#open = works.length;
  }

  /** Settles `all` when all works are. */
  watch(all: Pending): void {
    all.settle("running");
    if (this.#open === 0) return all.settle("done");
    for (const work of this.#works) {
      work.whenSettled(() => {
        if (--this.#open > 0) return;
        const failed = this.#works.find((w) => w.state === "failed");
        if (failed === undefined) all.settle("done");
        else all.settle("failed", failed.error);
      });
    }
  }

  pump(): void {
    for (const work of this.#works) work.pump();
  }

  runSync(_all: Pending, until?: number): void {
    for (const work of this.#works) if (!work.settled) work.runSync(until);
  }

  spin(): void {
    for (const work of this.#works) if (!work.settled) return work.spin();
  }

  kick(): void {}
}
