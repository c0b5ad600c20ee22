/**
 * The wire format of the store: a small key-value service over TCP by which ranks find each other.
 *
 * A frame is `u32 length | u8 op | u32 id | u16 fields | fields × (u32 length | bytes)`, little-endian; `length` counts what
 * follows it. Requests and their replies share an id; pushes of the server have id 0. A client's first frame is `hello` with the
 * job's token. Pure: bytes in, frames out.
 */
import { ShardwiseError } from "./errors.ts";

/** A failed operation of the store: a timeout, a lost connection, a refused token, a malformed frame. */
export class StoreError extends ShardwiseError {}

/** Operations of clients, and below them the server's answers. */
export const OP = {
  hello: 1, // token, who
  set: 2, // key, value
  get: 3, // key, timeout in ms; answers when the key exists
  wait: 4, // timeout in ms, keys…; answers when all exist
  add: 5, // key, delta; answers the sum, as decimal text
  compareSet: 6, // key, "" | "=", expected, value; answers the value that the key then has
  delete: 7, // key; answers "1" or "0"
  list: 8, // prefix; answers the keys, sorted
  abort: 9, // JSON; pushed to every client
  ping: 10,
  ok: 64, // fields…
  error: 65, // code, message, fields…
  pushAbort: 96, // JSON
  pushLeft: 97, // rank: it ended normally
} as const;

/** The code of a frame. */
export type StoreOp = typeof OP[keyof typeof OP];

/** One message. */
export interface StoreFrame {
  readonly op: StoreOp;
  readonly id: number;
  readonly fields: readonly Uint8Array[];
}

/** Bytes of a frame's head behind its length. */
const HEAD = 7;
/** The largest frame that is taken from a client that has not shown the token. */
export const MAX_HELLO = 1024;
/** The largest frame otherwise; it bounds a value too. */
export const MAX_FRAME = 64 * 1024 * 1024;

const OPS: ReadonlySet<number> = new Set(Object.values(OP));
const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** `text` as a field. */
export function field(text: string): Uint8Array {
  return encoder.encode(text);
}

/** A field as text. Malformed UTF-8 becomes replacement characters; it can then equal no key. */
export function text(field: Uint8Array | undefined): string {
  return field === undefined ? "" : decoder.decode(field);
}

/** The bytes of a frame. @throws {StoreError} If it is larger than {@linkcode MAX_FRAME}. */
export function encodeFrame(op: StoreOp, id: number, fields: readonly Uint8Array[] = []): Uint8Array<ArrayBuffer> {
  let length = HEAD;
  for (const f of fields) length += 4 + f.length;
  if (length > MAX_FRAME || fields.length > 0xffff) {
    throw new StoreError(
      `Cannot send ${length} bytes in ${fields.length} fields: the store takes at most ${MAX_FRAME} in 65535`,
      {
        hint: "the store is for addresses and small states; move tensors with collectives",
      },
    );
  }
  const bytes = new Uint8Array(4 + length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, length, true);
  bytes[4] = op;
  view.setUint32(5, id, true);
  view.setUint16(9, fields.length, true);
  let at = 4 + HEAD;
  for (const f of fields) {
    view.setUint32(at, f.length, true);
    bytes.set(f, at + 4);
    at += 4 + f.length;
  }
  return bytes;
}

/** Cuts a stream of bytes into frames. Memory is bounded by `limit` plus one chunk. */
export class FrameDecoder {
  /** The largest frame that is taken, in bytes behind its length. */
  limit: number;
  #parts: Uint8Array[] = [];
  #have = 0;
  #need = 4;

  constructor(limit: number) {
    this.limit = limit;
  }

  /** The frames that `chunk` completes. @throws {StoreError} If a frame is too large or malformed; the stream is then lost. */
  *push(chunk: Uint8Array): Generator<StoreFrame> {
    this.#parts.push(chunk);
    this.#have += chunk.length;
    while (this.#have >= this.#need) {
      const bytes = this.#join();
      const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
      if (length < HEAD || length > this.limit) {
        throw new StoreError(`Cannot read a frame of ${length} bytes: expected ${HEAD} to ${this.limit}`);
      }
      this.#need = 4 + length;
      if (bytes.length < this.#need) continue;
      const rest = bytes.subarray(this.#need);
      this.#parts = [rest];
      this.#have = rest.length;
      const frame = parse(bytes.subarray(4, this.#need));
      this.#need = 4;
      yield frame;
    }
  }

  #join(): Uint8Array {
    if (this.#parts.length === 1) return this.#parts[0]!;
    const all = new Uint8Array(this.#have);
    let at = 0;
    for (const part of this.#parts) {
      all.set(part, at);
      at += part.length;
    }
    this.#parts = [all];
    return all;
  }
}

function parse(body: Uint8Array): StoreFrame {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  const op = body[0]!;
  if (!OPS.has(op)) throw new StoreError(`Cannot read a frame with op ${op}: no such operation`);
  const count = view.getUint16(5, true);
  const fields: Uint8Array[] = [];
  let at = HEAD;
  for (let i = 0; i < count; i++) {
    if (at + 4 > body.length) throw new StoreError(`Cannot read field ${i} of ${count}: the frame ends before it`);
    const length = view.getUint32(at, true);
    at += 4;
    if (length > body.length - at) {
      throw new StoreError(`Cannot read field ${i} of ${count}: it is longer than its frame`);
    }
    // A copy, so that a small value does not keep a large chunk alive.
    fields.push(body.slice(at, at + length));
    at += length;
  }
  if (at !== body.length) throw new StoreError(`Cannot read a frame: ${body.length - at} bytes follow its last field`);
  return { op: op as StoreOp, id: view.getUint32(1, true), fields };
}
