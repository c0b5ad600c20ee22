/**
 * The store's server: keys and values over TCP for the ranks and launchers of one job.
 *
 * A client has to show the job's token in its first frame, which is small and comes soon; whoever sends something else is cut off.
 * A client that does not read its replies, or sends what is no frame, loses its connection and harms nobody else.
 */
import {
  encodeFrame,
  field,
  FrameDecoder,
  MAX_FRAME,
  MAX_HELLO,
  OP,
  StoreError,
  type StoreFrame,
  text,
} from "../src/core/store_protocol.ts";
import { StoreState } from "./store_state.ts";

/** Replies that may wait for a client which does not read. */
const MOST_UNREAD = 128 * 1024 * 1024;
/** Connections without a token at a time; the oldest goes when there are more. */
const MOST_STRANGERS = 256;
const HELLO_MS = 5_000;
const LONGEST_WAIT = 0x7fffffff;

/** What the launcher wants to hear from its store. */
export interface StoreEvents {
  /** A client asked for the job's end. */
  readonly onAbort?: (reason: string) => void;
  /** A launcher or rank that had said hello is gone. `who` is what it called itself. */
  readonly onGone?: (who: string) => void;
  /** A client said hello. */
  readonly onHello?: (who: string) => void;
}

/** A running store. */
export class StoreServer implements Disposable {
  readonly state = new StoreState();
  readonly port: number;
  readonly #listener: Deno.TcpListener;
  readonly #events: StoreEvents;
  readonly #clients = new Set<Client>();
  readonly #tokens = new Set<string>();
  #aborted: Uint8Array<ArrayBuffer> | undefined;
  readonly #left: Uint8Array<ArrayBuffer>[] = [];

  /** Listens at once; clients are answered from the next turn of the event loop on. */
  constructor(options: { hostname: string; port: number; events?: StoreEvents }) {
    this.#listener = Deno.listen({ hostname: options.hostname, port: options.port });
    this.port = this.#listener.addr.port;
    this.#events = options.events ?? {};
    void this.#accept();
  }

  /** Lets clients in that show `token`. */
  allow(token: string): void {
    this.#tokens.add(token);
  }

  /** Refuses `token` from now on, and ends the connections that showed it. */
  revoke(token: string): void {
    this.#tokens.delete(token);
    for (const client of this.#clients) if (client.token === token) client.close();
  }

  /** Tells all clients, now and later ones, that the job is being aborted. */
  pushAbort(reason: string): void {
    if (this.#aborted !== undefined) return;
    this.#aborted = encodeFrame(OP.pushAbort, 0, [field(reason)]);
    for (const client of this.#clients) if (client.token !== undefined) client.send(this.#aborted);
  }

  /** Forgets an abort and who left: the next attempt has ranks of its own. */
  beginAttempt(): void {
    this.#aborted = undefined;
    this.#left.length = 0;
  }

  /** Tells all clients, now and later ones, that `rank` ended normally. */
  pushLeft(rank: number): void {
    const frame = encodeFrame(OP.pushLeft, 0, [field(String(rank))]);
    this.#left.push(frame);
    for (const client of this.#clients) if (client.token !== undefined) client.send(frame);
  }

  /** Ends the connections of clients called `prefix…` that have sent nothing for `ms`. */
  dropSilent(prefix: string, ms: number): void {
    for (const client of this.#clients) {
      if (client.who.startsWith(prefix) && performance.now() - client.lastHeard > ms) client.close();
    }
  }

  /** Resolves when at most `most` clients called `prefix…` are connected, or after `timeoutMs`. */
  async waitForFarewell(prefix: string, most: number, timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    const count = () => [...this.#clients].filter((client) => client.who.startsWith(prefix)).length;
    while (count() > most && performance.now() < deadline) await new Promise((done) => setTimeout(done, 10));
  }

  [Symbol.dispose](): void {
    try {
      this.#listener.close();
    } catch {
      // It is closed.
    }
    for (const client of this.#clients) client.close();
  }

  async #accept(): Promise<void> {
    for (;;) {
      let conn: Deno.TcpConn;
      try {
        conn = await this.#listener.accept();
      } catch (error) {
        if (error instanceof Deno.errors.BadResource || error instanceof Deno.errors.Interrupted) return;
        // Too many open files, or a client that was gone at once: the listener itself still works.
        await new Promise((done) => setTimeout(done, 50));
        continue;
      }
      const strangers = [...this.#clients].filter((client) => client.token === undefined);
      if (strangers.length >= MOST_STRANGERS) strangers[0]!.close();
      const client = new Client(conn);
      this.#clients.add(client);
      void this.#serve(client);
    }
  }

  async #serve(client: Client): Promise<void> {
    const patience = setTimeout(() => client.token ?? client.close(), HELLO_MS);
    Deno.unrefTimer(patience);
    try {
      const decoder = new FrameDecoder(MAX_HELLO);
      for await (const chunk of client.conn.readable) {
        client.lastHeard = performance.now();
        for (const frame of decoder.push(chunk)) {
          if (client.token !== undefined) this.#answer(client, frame);
          else if (this.#greet(client, frame)) decoder.limit = MAX_FRAME;
          else return;
        }
      }
    } catch {
      // No frame, or a lost connection: both end here.
    } finally {
      clearTimeout(patience);
      this.#clients.delete(client);
      client.close();
      if (client.token !== undefined) this.#events.onGone?.(client.who);
    }
  }

  #greet(client: Client, frame: StoreFrame): boolean {
    const token = text(frame.fields[0]);
    if (frame.op !== OP.hello || !this.#tokens.has(token)) {
      client.fail(frame.id, "token", "Cannot use the store: the token is not that of this job");
      return false;
    }
    client.token = token;
    client.who = text(frame.fields[1]);
    client.reply(frame.id);
    if (this.#aborted !== undefined) client.send(this.#aborted);
    // A rank that was quick may have ended before a slow one came.
    for (const frame of this.#left) client.send(frame);
    this.#events.onHello?.(client.who);
    return true;
  }

  #answer(client: Client, frame: StoreFrame): void {
    const [first, second, third, fourth] = frame.fields;
    const { state } = this, { id } = frame, key = text(first);
    const full = () => client.fail(id, "full", `Cannot set ${JSON.stringify(key)}: the store is full`);
    switch (frame.op) {
      case OP.set:
        return state.set(key, second ?? new Uint8Array(0)) ? client.reply(id) : full();
      case OP.get:
        return this.#wait(client, id, [key], text(second), () => client.reply(id, state.get(key) ?? new Uint8Array(0)));
      case OP.wait:
        return this.#wait(client, id, frame.fields.slice(1).map(text), key, () => client.reply(id));
      case OP.add: {
        const sum = Number(text(state.get(key)) || "0") + Number(text(second));
        if (!Number.isSafeInteger(sum)) {
          return client.fail(
            id,
            "number",
            `Cannot add ${JSON.stringify(text(second))} to ${JSON.stringify(key)}: the sum is no integer`,
          );
        }
        return state.set(key, field(String(sum))) ? client.reply(id, field(String(sum))) : full();
      }
      case OP.compareSet: {
        const now = state.get(key), value = fourth ?? new Uint8Array(0);
        const expected = text(second) === "=" ? third ?? new Uint8Array(0) : undefined;
        const matches = now === undefined || expected === undefined ? now === expected : sameBytes(now, expected);
        if (!matches) return client.reply(id, now ?? new Uint8Array(0));
        return state.set(key, value) ? client.reply(id, value) : full();
      }
      case OP.delete:
        return client.reply(id, field(state.delete(key) ? "1" : "0"));
      case OP.list:
        return client.reply(id, ...state.list(key).map(field));
      case OP.abort:
        client.reply(id);
        this.#events.onAbort?.(key);
        return this.pushAbort(key);
      case OP.ping:
        return client.reply(id);
      default:
        return client.fail(id, "op", `Cannot answer op ${frame.op}: it is no request`);
    }
  }

  #wait(client: Client, id: number, keys: readonly string[], timeout: string, done: () => void): void {
    const ms = Math.min(LONGEST_WAIT, Math.max(0, Number(timeout) || 0));
    // Set once the wait has begun; keys that exist already end it before.
    const wait: { timer?: ReturnType<typeof setTimeout>; done?: true } = {};
    const stop = () => {
      clearTimeout(wait.timer);
      giveUp();
    };
    const giveUp: () => string[] = this.state.wait(keys, () => {
      wait.done = true;
      clearTimeout(wait.timer);
      client.stopWaiting(stop);
      done();
    });
    if (wait.done) return;
    client.onClose(stop);
    wait.timer = setTimeout(() => {
      client.stopWaiting(stop);
      const missing = giveUp();
      const shown = missing.slice(0, 8).map((key) => JSON.stringify(key)).join(", ") +
        (missing.length > 8 ? ", …" : "");
      const it = missing.length === 1 ? "it" : "them";
      client.fail(id, "timeout", `Cannot find ${shown} in the store: nobody set ${it} within ${ms} ms`);
    }, ms);
    Deno.unrefTimer(wait.timer);
  }
}

/** One connection. */
class Client {
  readonly conn: Deno.TcpConn;
  token: string | undefined;
  who = "";
  lastHeard = performance.now();
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #closers = new Set<() => void>();
  #unread = 0;
  #closed = false;

  constructor(conn: Deno.TcpConn) {
    this.conn = conn;
    conn.setNoDelay(true);
    this.#writer = conn.writable.getWriter();
  }

  reply(id: number, ...fields: Uint8Array[]): void {
    try {
      this.send(encodeFrame(OP.ok, id, fields));
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      this.fail(id, "large", error.message);
    }
  }

  fail(id: number, code: string, message: string): void {
    this.send(encodeFrame(OP.error, id, [field(code), field(message)]));
  }

  send(frame: Uint8Array<ArrayBuffer>): void {
    if (this.#closed) return;
    this.#unread += frame.length;
    if (this.#unread > MOST_UNREAD) return this.close();
    this.#writer.write(frame).then(() => this.#unread -= frame.length, () => this.close());
  }

  onClose(listener: () => void): void {
    this.#closers.add(listener);
  }

  stopWaiting(listener: () => void): void {
    this.#closers.delete(listener);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const closer of this.#closers) closer();
    // Lets a last error message out, then ends the connection.
    const end = () => {
      try {
        this.conn.close();
      } catch {
        // The other side was faster.
      }
    };
    // A client that reads nothing would hold the last message up for ever.
    const impatience = setTimeout(end, 500);
    Deno.unrefTimer(impatience);
    this.#writer.close().catch(() => {}).finally(() => {
      clearTimeout(impatience);
      end();
    });
  }
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
