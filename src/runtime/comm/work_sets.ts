/** Waiting for one of several works, as MPI's Waitany and Waitsome do. */
import { InputError } from "../../core/errors.ts";
import type { AnyWork, Work } from "./work.ts";

/** One work that is done, of several. */
export interface Finished<T> {
  /** Its place among the works. */
  readonly index: number;
  /** What it gave. */
  readonly value: T;
}

/** The first of `works` that is settled. @throws {InputError} If there is none. @throws What that one failed with. */
export async function firstOf<T>(works: readonly Work<T>[]): Promise<Finished<T>> {
  if (works.length === 0) throw new InputError("Cannot wait for any of no works");
  const index = await settled(works);
  return { index, value: await works[index]! };
}

/** All of `works` that are settled as soon as one is. @throws What the first of them that failed failed with. */
export async function doneOf<T>(works: readonly Work<T>[]): Promise<Finished<T>[]> {
  if (works.length === 0) return [];
  await settled(works);
  const over = works.flatMap((work, index) => work.settled ? [{ work, index }] : []);
  // All at once, so that no failure is left unseen because an earlier one was told.
  const values = await Promise.all(over.map(({ work }) => work));
  return over.map(({ index }, i) => ({ index, value: values[i]! }));
}

/** Resolves with the place of the first that is settled; the failures of the others stay unseen. */
function settled(works: readonly AnyWork[]): Promise<number> {
  const { promise, resolve } = Promise.withResolvers<number>();
  works.forEach((work, index) => work.whenSettled(() => resolve(index), { watching: false }));
  works.find((work) => !work.settled)?.spin();
  return promise;
}
