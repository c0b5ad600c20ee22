/**
 * Messages from one rank to one other: a ring of bytes for every pair, through which messages of any length stream.
 *
 * Messages of a pair arrive in the order in which they were sent. A receive takes the first message that has its source and
 * tag; messages that nobody has asked for yet stay in the ring, or, once a receive asks for one behind them, are copied out.
 * A send is done when its bytes are in the ring, so one that is larger than the ring ends when the receiver has come.
 */
import { byteLength, type DType } from "../../core/dtype.ts";
import { InputError } from "../../core/errors.ts";
import { COMM_DTYPES, type CommDType, type View } from "./buffers.ts";
import { CollectiveMismatch } from "./errors.ts";
import { CHANNEL_BYTES, type ChannelOf, RING_BYTES } from "./message_channels.ts";
import { type Runner, type Side, Work } from "./work.ts";

const WRITTEN = 0, READ = 32, HEADER_BYTES = 16;

/** What a receive finds. */
export interface Received {
  /** Who sent it, as a rank of the group. */
  readonly source: number;
  /** The tag that it was sent with. */
  readonly tag: number;
  /** Elements; at most as many as the buffer holds. */
  readonly count: number;
}

/** What a probe finds. */
export interface Probed extends Received {
  /** The element type that it was sent with. */
  readonly dtype: CommDType;
}

/** What a mailbox needs of the engine beside memory. */
export interface MailboxPeers {
  /** Wakes ranks that sleep. */
  readonly wake: () => void;
  /** Looks whether waiting for one of `ranks` since `started` still makes sense; `what`: to do what. @throws {CommunicatorError} If not. */
  readonly check: (ranks: readonly number[], started: number, timeoutMs: number, what: () => string) => void;
}

/** How a mailbox reaches the others. */
export interface MailboxOptions extends MailboxPeers {
  readonly rank: number;
  readonly size: number;
  readonly runner: Runner;
  readonly channel: ChannelOf;
}

interface Channel {
  readonly words: Int32Array;
  readonly ring: Uint8Array;
}

interface Sending {
  readonly work: Work;
  /** Header, then payload. */
  readonly parts: readonly Uint8Array[];
  readonly view: View;
  readonly tag: number;
  readonly dest: number;
  readonly started: number;
  readonly timeoutMs: number;
  sent: number;
}

interface Receiving {
  readonly work: Work<Received>;
  readonly view: View;
  readonly source: number | "any";
  readonly tag: number | "any";
  readonly started: number;
  readonly timeoutMs: number;
}

interface Probing {
  readonly work: Work<Probed>;
  readonly source: number | "any";
  readonly tag: number | "any";
  readonly started: number;
  readonly timeoutMs: number;
}

/** A message that is being taken out of a ring, for a receive or for later. */
interface Arriving {
  readonly source: number;
  readonly tag: number;
  readonly dtype: number;
  readonly length: number;
  readonly bytes: Uint8Array;
  got: number;
  taker: Receiving | undefined;
}

/** The point-to-point side of one rank. */
export class Mailbox implements Side {
  #o: MailboxOptions;
  #channels = new Map<number, Channel>();
  /** First the oldest, for every destination. */
  #sending: Sending[][];
  #receiving: Receiving[] = [];
  #probing: Probing[] = [];
  /** The message that is coming from each source, and those that came before anybody asked. */
  #arriving: (Arriving | undefined)[];
  #unexpected: Arriving[] = [];

  constructor(options: MailboxOptions) {
    this.#o = options;
    this.#sending = Array.from({ length: options.size }, () => []);
    this.#arriving = Array.from({ length: options.size }, () => undefined);
  }

  get busy(): boolean {
    return this.#receiving.length > 0 || this.#probing.length > 0 ||
      this.#arriving.some((a) => a?.taker !== undefined) ||
      this.#sending.some((queue) => queue.length > 0);
  }

  /** Sends `view` to `dest`. The buffer must stay as it is until the work is done. */
  send(view: View, dest: number, o: { tag: number; timeoutMs: number }): Work {
    const header = new DataView(new ArrayBuffer(HEADER_BYTES));
    header.setUint32(0, view.bytes.length >>> 0, true);
    header.setUint32(4, Math.floor(view.bytes.length / 2 ** 32), true);
    header.setInt32(8, o.tag, true);
    header.setUint32(12, COMM_DTYPES.indexOf(view.dtype), true);
    const work = new Work(this.#o.runner), parts = [new Uint8Array(header.buffer), view.bytes];
    this.#sending[dest]!.push({ work, parts, view, dest, sent: 0, started: performance.now(), ...o });
    this.#o.runner.kick();
    return work;
  }

  /** Receives into `view` from `source` what has `tag`. */
  recv(view: View, source: number | "any", o: { tag: number | "any"; timeoutMs: number }): Work<Received> {
    const work = new Work<Received>(this.#o.runner);
    const receiving = { work, view, source, tag: o.tag, started: performance.now(), timeoutMs: o.timeoutMs };
    const at = this.#unexpected.findIndex((m) => m.taker === undefined && takes(receiving, m));
    const message = this.#unexpected[at];
    if (message === undefined) this.#receiving.push(receiving);
    else if (message.got < message.length) message.taker = receiving;
    else {
      this.#unexpected.splice(at, 1);
      deliver(message, receiving);
    }
    this.#o.runner.kick();
    return work;
  }

  /** Waits for a message of `source` with `tag` that no receive has taken, and leaves it for one. */
  probe(source: number | "any", o: { tag: number | "any"; timeoutMs: number }): Work<Probed> {
    const work = new Work<Probed>(this.#o.runner);
    const probing = { work, source, tag: o.tag, started: performance.now(), timeoutMs: o.timeoutMs };
    const message = this.#unexpected.find((m) => m.taker === undefined && takes(probing, m));
    if (message !== undefined) work.settle("done", probed(message));
    else this.#probing.push(probing);
    this.#o.runner.kick();
    return work;
  }

  /** Fails the receive or probe of `work` with `reason`, if no message has met it; whether it did. */
  takeBack(work: unknown, reason: unknown): boolean {
    const asked = this.#probing.findIndex((probing) => probing.work === work);
    if (asked >= 0) {
      this.#probing.splice(asked, 1)[0]!.work.settle("failed", reason);
      return true;
    }
    const at = this.#receiving.findIndex((receiving) => receiving.work === work);
    if (at < 0) return false;
    this.#receiving.splice(at, 1)[0]!.work.settle("failed", reason);
    return true;
  }

  /** What is under way, in words. */
  describe(): string[] {
    const sends = this.#sending.flat().map(({ dest, view, tag }) =>
      `send ${view.dtype}[${view.count}] to ${dest}, tag ${tag}`
    );
    const taken = this.#arriving.flatMap((a) => a?.taker ?? []);
    const receives = [...this.#receiving, ...taken].map(({ source, view, tag }) =>
      `recv ${view.dtype}[${view.count}] from ${source}, tag ${tag}`
    );
    return [...sends, ...receives, ...this.#probing.map(({ source, tag }) => `probe ${source}, tag ${tag}`)];
  }

  /** Moves what can be moved without waiting; whether anything did. */
  pump(): boolean {
    let moved = false;
    for (const queue of this.#sending) {
      while (queue.length > 0 && this.#push(queue[0]!)) {
        queue.shift()!.work.settle("done");
        moved = true;
      }
    }
    for (let source = 0; source < this.#o.size; source++) while (this.#pull(source)) moved = true;
    return moved;
  }

  /** @throws {CommunicatorError} If a rank that is waited for is gone or late. */
  check(): void {
    for (const { dest, view, tag, started, timeoutMs } of this.#sending.flat()) {
      this.#o.check([dest], started, timeoutMs, () => describe("sending", view, tag));
    }
    const others = Array.from({ length: this.#o.size }, (_, r) => r).filter((r) => r !== this.#o.rank);
    for (const { source, view, tag, started, timeoutMs } of this.#receiving) {
      this.#o.check(source === "any" ? others : [source], started, timeoutMs, () => describe("receiving", view, tag));
    }
    for (const { source, tag, started, timeoutMs } of this.#probing) {
      this.#o.check(source === "any" ? others : [source], started, timeoutMs, () => `probing (tag ${tag})`);
    }
    // Also for the rest of a message that has begun to come.
    for (const message of this.#arriving) {
      if (message?.taker === undefined) continue;
      const { view, tag, started, timeoutMs } = message.taker;
      this.#o.check([message.source], started, timeoutMs, () => describe("receiving", view, tag));
    }
  }

  /** All that is under way fails. */
  fail(error: unknown, quietly = false): void {
    const works = [
      ...this.#sending.flat(),
      ...this.#receiving,
      ...this.#probing,
      ...this.#arriving.flatMap((a) => a?.taker ?? []),
    ].map((
      i,
    ) => i.work);
    this.#sending.forEach((queue) => queue.length = 0);
    this.#receiving = [];
    this.#probing = [];
    this.#arriving.fill(undefined);
    for (const work of works) {
      if (quietly) work.whenSettled(() => {});
      work.settle("failed", error);
    }
  }

  /** Puts as much of `sending` into the ring as there is room for; whether all is in. */
  #push(sending: Sending): boolean {
    const { words, ring } = this.#channel(this.#o.rank, sending.dest);
    let written = Atomics.load(words, WRITTEN);
    let start = 0;
    for (const part of sending.parts) {
      while (sending.sent < start + part.length) {
        const room = RING_BYTES - ((written - Atomics.load(words, READ)) >>> 0);
        if (room === 0) return false;
        const from = sending.sent - start, at = (written >>> 0) % RING_BYTES;
        const n = Math.min(room, part.length - from, RING_BYTES - at);
        ring.set(part.subarray(from, from + n), at);
        sending.sent += n;
        Atomics.store(words, WRITTEN, written = (written + n) | 0);
        this.#o.wake();
      }
      start += part.length;
    }
    return true;
  }

  /** Takes bytes from `source`; whether it may go on at once. */
  #pull(source: number): boolean {
    const asked = this.#receiving.length + this.#probing.length > 0;
    if (!asked && this.#arriving[source] === undefined) return false;
    const channel = this.#channel(source, this.#o.rank);
    const message = this.#arriving[source] ?? this.#begin(source, channel);
    if (message === undefined) return false;
    while (message.got < message.length) {
      const n = Math.min(available(channel), message.length - message.got);
      if (n === 0) return false;
      // What is longer than the receiver's buffer is taken out of the ring, but kept nowhere.
      this.#take(channel, n, message.bytes.subarray(message.got));
      message.got += n;
    }
    this.#arriving[source] = undefined;
    if (message.taker !== undefined) {
      const at = this.#unexpected.indexOf(message);
      if (at >= 0) this.#unexpected.splice(at, 1);
      deliver(message, message.taker);
    }
    return true;
  }

  /** Reads the header of the next message, if it is there and somebody asks for something from `source`. */
  #begin(source: number, channel: Channel): Arriving | undefined {
    if (available(channel) < HEADER_BYTES) return undefined;
    const asks = (r: Receiving | Probing) => r.source === "any" || r.source === source;
    if (!this.#receiving.some(asks) && !this.#probing.some(asks)) return undefined;
    const header = new DataView(new ArrayBuffer(HEADER_BYTES));
    this.#take(channel, HEADER_BYTES, new Uint8Array(header.buffer));
    const length = header.getUint32(0, true) + header.getUint32(4, true) * 2 ** 32;
    const tag = header.getInt32(8, true), dtype = header.getUint32(12, true);
    const at = this.#receiving.findIndex((r) => takes(r, { source, tag })), taker = this.#receiving[at];
    if (taker !== undefined) this.#receiving.splice(at, 1);
    const bytes = taker?.view.bytes ?? new Uint8Array(length);
    const message: Arriving = { source, tag, dtype, length, bytes, got: 0, taker };
    if (taker === undefined) {
      this.#unexpected.push(message);
      const met = this.#probing.filter((probing) => takes(probing, message));
      this.#probing = this.#probing.filter((probing) => !met.includes(probing));
      for (const { work } of met) work.settle("done", probed(message));
    }
    return this.#arriving[source] = message;
  }

  #take(channel: Channel, n: number, into: Uint8Array): void {
    const { words, ring } = channel;
    const read = Atomics.load(words, READ);
    for (let done = 0; done < n;) {
      const at = ((read + done) >>> 0) % RING_BYTES, length = Math.min(n - done, RING_BYTES - at);
      const kept = Math.min(length, Math.max(0, into.length - done));
      if (kept > 0) into.set(ring.subarray(at, at + kept), done);
      done += length;
    }
    Atomics.store(words, READ, (read + n) | 0);
    this.#o.wake();
  }

  #channel(from: number, to: number): Channel {
    const key = from * this.#o.size + to;
    let channel = this.#channels.get(key);
    if (channel === undefined) {
      const bytes = this.#o.channel(from, to);
      channel = {
        words: new Int32Array(bytes.buffer, bytes.byteOffset, 64),
        ring: bytes.subarray(256, CHANNEL_BYTES),
      };
      this.#channels.set(key, channel);
    }
    return channel;
  }
}

function available({ words }: Channel): number {
  return (Atomics.load(words, WRITTEN) - Atomics.load(words, READ)) >>> 0;
}

function describe(what: string, view: View, tag: number | "any"): string {
  return `${what} ${view.dtype}[${view.count}] (tag ${tag})`;
}

function probed({ source, tag, dtype, length }: Arriving): Probed {
  const type = COMM_DTYPES[dtype]!;
  return { source, tag, dtype: type, count: length / byteLength(type as DType, 1) };
}

function takes(
  receiving: Pick<Probing, "source" | "tag">,
  message: { readonly source: number; readonly tag: number },
): boolean {
  return (receiving.source === "any" || receiving.source === message.source) &&
    (receiving.tag === "any" || receiving.tag === message.tag);
}

/** Ends `receiving` with a message that is all there. */
function deliver(message: Arriving, receiving: Receiving): void {
  const { view, work } = receiving, { source, tag, length } = message;
  const sent = COMM_DTYPES[message.dtype];
  if (sent !== view.dtype) {
    work.settle(
      "failed",
      new CollectiveMismatch(`Cannot receive ${sent} from rank ${source} (tag ${tag}) into a buffer of ${view.dtype}`),
    );
  } else if (length > view.bytes.length) {
    work.settle(
      "failed",
      new InputError(
        `Cannot receive ${
          length / view.itemBytes
        } elements from rank ${source} (tag ${tag}) into a buffer of ${view.count}`,
      ),
    );
  } else {
    if (message.bytes !== view.bytes) view.bytes.set(message.bytes);
    work.settle("done", { source, tag, count: length / view.itemBytes });
  }
}
