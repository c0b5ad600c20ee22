/** Values as bytes, and messages of them, over any communicator's sends and receives. */
import { deserialize, serialize } from "node:v8";
import type { Communicator, ObjectCollectives } from "./communicator.ts";

/** `value` as bytes, as structured clone sees it. */
export function pack(value: unknown): Uint8Array {
  return serialize(value);
}

/** The value that was packed. */
export function unpack<T>(bytes: Uint8Array): T {
  return deserialize(bytes) as T;
}

/** Messages of values: first how many bytes, then the bytes, which stay together because a pair's messages keep their order. */
export function objectMessages(comm: Communicator): Pick<ObjectCollectives, "send" | "recv"> {
  return {
    send: async (value, dest, options) => {
      const bytes = pack(value);
      await Promise.all([
        comm.send(Float64Array.of(bytes.length), dest, options),
        comm.send(bytes, dest, options),
      ]);
    },
    recv: async <T>(source: number | "any", options = {}) => {
      const length = new Float64Array(1);
      const found = await comm.recv(length, source, options);
      const bytes = new Uint8Array(length[0]!);
      await comm.recv(bytes, found.source, options);
      return unpack<T>(bytes);
    },
  };
}
