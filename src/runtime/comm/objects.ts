/** Values as bytes, and messages of them, over any communicator's sends and receives. */
import { deserialize, serialize } from "node:v8";
import { InputError } from "../../core/errors.ts";
import { requireRank } from "./arguments.ts";
import { broadcastBytes, type CollectiveSteps, gatherBytes, scatterBytes } from "./collective_steps.ts";
import type { Steps } from "./collectives.ts";
import type { Communicator, ObjectCollectives, OpOptions, ReceiveOptions } from "./communicator.ts";

/** `value` as bytes, as structured clone sees it. @throws {InputError} If it cannot be cloned. */
export function pack(value: unknown): Uint8Array {
  try {
    return serialize(value);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : `${cause}`;
    throw new InputError(`Cannot pass a value to other ranks: ${reason}`, {
      hint: "pass data only: functions, promises, and objects of the runtime stay where they are",
      cause,
    });
  }
}

/** The value that was packed. */
export function unpack<T>(bytes: Uint8Array): T {
  return deserialize(bytes) as T;
}

/** Collectives of values, issued by `run` as steps of an engine, and messages of them. */
export function objectCollectives(
  comm: Communicator,
  steps: CollectiveSteps,
  run: <T>(
    call: { readonly verb: string; readonly root: number },
    options: OpOptions,
    start: () => Steps<T>,
  ) => PromiseLike<T>,
): ObjectCollectives {
  const { rank, size } = comm;
  return {
    broadcast: async <T>(value: T | undefined, root: number, options: OpOptions = {}): Promise<T> => {
      requireRank(comm, root);
      const payload = rank === root ? pack(value) : new Uint8Array();
      return unpack<T>(
        await run({ verb: "objects.broadcast", root }, options, () => broadcastBytes(steps, comm, payload, root)),
      );
    },
    allGather: async <T>(value: T, options: OpOptions = {}): Promise<T[]> => {
      const payload = pack(value);
      return (await run({ verb: "objects.allGather", root: -1 }, options, () => gatherBytes(steps, comm, payload))).map(
        unpack<T>,
      );
    },
    gather: async <T>(value: T, root: number, options: OpOptions = {}): Promise<T[] | null> => {
      requireRank(comm, root);
      const payload = pack(value);
      const all = await run({ verb: "objects.gather", root }, options, () => gatherBytes(steps, comm, payload, root));
      return rank === root ? all.map(unpack<T>) : null;
    },
    scatter: async <T>(values: readonly T[] | null, root: number, options: OpOptions = {}): Promise<T> => {
      requireRank(comm, root);
      if (rank === root && values?.length !== size) {
        throw new InputError(`Cannot scatter ${values?.length ?? "no"} values to ${size} ranks`);
      }
      const payloads = rank === root ? values!.map(pack) : undefined;
      return unpack<T>(
        await run({ verb: "objects.scatter", root }, options, () => scatterBytes(steps, comm, payloads, root)),
      );
    },
    ...objectMessages(comm),
  };
}

/** Messages of values: first how many bytes, then the bytes, which stay together because a pair's messages keep their order. */
function objectMessages(comm: Communicator): Pick<ObjectCollectives, "send" | "recv"> {
  const turns = new Turns();
  return {
    send: async (value, dest, options) => {
      const bytes = pack(value);
      await Promise.all([
        comm.send(Float64Array.of(bytes.length), dest, options),
        comm.send(bytes, dest, options),
      ]);
    },
    recv: <T>(source: number | "any", options: ReceiveOptions = {}) =>
      turns.take({ source, tag: options.tag ?? 0 }, async () => {
        const length = new Float64Array(1);
        const found = await comm.recv(length, source, options);
        const bytes = new Uint8Array(length[0]!);
        await comm.recv(bytes, found.source, { ...options, tag: found.tag });
        return unpack<T>(bytes);
      }),
  };
}

interface Asked {
  readonly source: number | "any";
  readonly tag: number | "any";
}

/** Receives that could take each other's parts go one after the other, in the order of the calls. */
class Turns {
  #under: { readonly asked: Asked; readonly done: Promise<unknown> }[] = [];

  async take<T>(asked: Asked, receive: () => Promise<T>): Promise<T> {
    const before = this.#under.filter((other) => meet(other.asked, asked)).map(({ done }) => done);
    const { promise, resolve } = Promise.withResolvers<void>(), own = { asked, done: promise };
    this.#under.push(own);
    try {
      if (before.length > 0) await Promise.all(before);
      return await receive();
    } finally {
      this.#under.splice(this.#under.indexOf(own), 1);
      resolve();
    }
  }
}

/** Whether one message could be for both. */
function meet(a: Asked, b: Asked): boolean {
  const same = (x: number | "any", y: number | "any") => x === y || x === "any" || y === "any";
  return same(a.source, b.source) && same(a.tag, b.tag);
}
