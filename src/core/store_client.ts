/**
 * The client of the store over any pair of byte streams: sets, gets and waits for small values that all ranks of a job see, and
 * hears of the job's abort. Pure; src/runtime/comm/store.ts and the launcher open the connections.
 */
import {
  encodeFrame,
  field,
  FrameDecoder,
  MAX_FRAME,
  OP,
  StoreError,
  type StoreFrame,
  type StoreOp,
  text,
} from "./store_protocol.ts";

/** How long a get or wait may take, in ms. */
export interface StoreWaitOptions {
  readonly timeoutMs?: number;
}

/** A key-value service that all ranks of a job share. */
export interface Store {
  /** Sets `key`. */
  set(key: string, value: Uint8Array): Promise<void>;
  /** The value of `key`, waiting until it exists. @throws {StoreError} After `timeoutMs`, naming the key. */
  get(key: string, options?: StoreWaitOptions): Promise<Uint8Array>;
  /** Adds `n` to the decimal number in `key` (0 if absent) and resolves to the sum. */
  add(key: string, n: number): Promise<number>;
  /** Sets `key` to `value` if it is `expected` (null: if absent). Resolves to the value that it then has. */
  compareSet(key: string, expected: Uint8Array | null, value: Uint8Array): Promise<Uint8Array>;
  /** Waits until all `keys` exist. @throws {StoreError} After `timeoutMs`, naming the missing ones. */
  wait(keys: readonly string[], options?: StoreWaitOptions): Promise<void>;
  /** Removes `key`; resolves to whether it existed. */
  delete(key: string): Promise<boolean>;
  /** The keys that start with `prefix`, sorted. */
  list(prefix: string): Promise<string[]>;
  /** The same store with `prefix` before every key. */
  prefix(prefix: string): Store;
}

/** What a client needs of a connection; `Deno.TcpConn` fits. */
export interface StoreConnection {
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<Uint8Array>;
  readonly close: () => void;
  readonly ref: () => void;
  readonly unref: () => void;
}

/** Default patience of get, wait and barrier, in ms. */
const PATIENCE = 60_000;

/** A store over one TCP connection. Requests may overlap. */
export class StoreClient implements Store, Disposable {
  readonly #conn: StoreConnection;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #pending = new Map<
    number,
    { resolve: (fields: readonly Uint8Array[]) => void; reject: (error: Error) => void }
  >();
  readonly #left = new Set<number>();
  readonly #leftListeners = new Set<(rank: number) => void>();
  readonly #abortListeners = new Set<(reason: string) => void>();
  readonly #aborted = Promise.withResolvers<string>();
  readonly #ended = Promise.withResolvers<void>();
  #next = 1;
  #closed: StoreError | undefined;

  constructor(conn: StoreConnection) {
    this.#conn = conn;
    this.#writer = conn.writable.getWriter();
    // The connection alone does not keep a rank alive that has nothing else to do; pending requests do.
    conn.unref();
    void this.#read();
  }

  /** Resolves to the abort's JSON when the job is being aborted; rejects never. */
  get aborted(): Promise<string> {
    return this.#aborted.promise;
  }

  /** Ranks that ended normally, as far as the launcher has told. */
  get left(): ReadonlySet<number> {
    return this.#left;
  }

  /** Calls `listener` with the reason of every abort: there may be one in each attempt of a job that is restarted. */
  onAbort(listener: (reason: string) => void): void {
    this.#abortListeners.add(listener);
  }

  /** Calls `listener` for every rank that ends normally from now on; the result stops that. */
  onLeft(listener: (rank: number) => void): () => void {
    this.#leftListeners.add(listener);
    return () => this.#leftListeners.delete(listener);
  }

  /** Shows the token, and says who this is: a rank's number, or a launcher's name. The first call on a new connection. */
  async hello(token: string, who: string): Promise<void> {
    await this.#ask(OP.hello, [field(token), field(who)]);
  }

  async set(key: string, value: Uint8Array): Promise<void> {
    await this.#ask(OP.set, [field(key), value]);
  }

  async get(key: string, options: StoreWaitOptions = {}): Promise<Uint8Array> {
    return one(await this.#ask(OP.get, [field(key), field(String(options.timeoutMs ?? PATIENCE))]));
  }

  async add(key: string, n: number): Promise<number> {
    return Number(text(one(await this.#ask(OP.add, [field(key), field(String(n))]))));
  }

  async compareSet(key: string, expected: Uint8Array | null, value: Uint8Array): Promise<Uint8Array> {
    const fields = [field(key), field(expected === null ? "" : "="), expected ?? field(""), value];
    return one(await this.#ask(OP.compareSet, fields));
  }

  async wait(keys: readonly string[], options: StoreWaitOptions = {}): Promise<void> {
    await this.#ask(OP.wait, [field(String(options.timeoutMs ?? PATIENCE)), ...keys.map(field)]);
  }

  async delete(key: string): Promise<boolean> {
    return text(one(await this.#ask(OP.delete, [field(key)]))) === "1";
  }

  async list(prefix: string): Promise<string[]> {
    return (await this.#ask(OP.list, [field(prefix)])).map(text);
  }

  prefix(prefix: string): Store {
    return new PrefixStore(this, prefix);
  }

  /**
   * Waits until all ranks of [0, `worldSize`) have called it with this `name`, which must be new each time.
   *
   * @throws {StoreError} After `timeoutMs`, naming the missing ranks, or at once when a missing rank has ended normally.
   */
  async barrier(name: string, who: { rank: number; worldSize: number; timeoutMs?: number }): Promise<void> {
    const key = (rank: number) => `barrier/${name}/${rank}`;
    await this.set(key(who.rank), field(""));
    const left = Promise.withResolvers<never>();
    const check = async (rank: number) => {
      if ((await this.list(`barrier/${name}/`)).includes(key(rank))) return;
      left.reject(new StoreError(`Cannot pass barrier "${name}": rank ${rank} ended normally without calling it`));
    };
    const checked = (rank: number) => void check(rank).catch((error) => left.reject(error));
    const stop = this.onLeft(checked);
    for (const rank of this.#left) checked(rank);
    const keys = Array.from({ length: who.worldSize }, (_, rank) => key(rank));
    const all = this.wait(keys, { timeoutMs: who.timeoutMs ?? PATIENCE });
    all.catch(() => {}); // lost races are reported through `left`
    left.promise.catch(() => {});
    try {
      await Promise.race([all, left.promise]);
    } finally {
      stop();
    }
  }

  /** Asks the server to push `reason` (JSON) to all clients; the launcher then ends the job. */
  async abort(reason: string): Promise<void> {
    await this.#ask(OP.abort, [field(reason)]);
  }

  /** Resolves when the server has answered. */
  async ping(): Promise<void> {
    await this.#ask(OP.ping, []);
  }

  /** Resolves when the connection has ended, however it did. */
  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  [Symbol.dispose](): void {
    this.#close(new StoreError("Cannot use the store: it was closed"));
  }

  async #ask(op: StoreOp, fields: readonly Uint8Array[]): Promise<readonly Uint8Array[]> {
    if (this.#closed !== undefined) throw this.#closed;
    const id = this.#next++;
    const bytes = encodeFrame(op, id, fields);
    const { promise, resolve, reject } = Promise.withResolvers<readonly Uint8Array[]>();
    if (this.#pending.size === 0) this.#conn.ref();
    this.#pending.set(id, { resolve, reject });
    this.#writer.write(bytes).catch((cause) => this.#close(new StoreError("Cannot write to the store", { cause })));
    return await promise;
  }

  async #read(): Promise<void> {
    const decoder = new FrameDecoder(MAX_FRAME);
    let failure = new StoreError("Cannot use the store: its server closed the connection", {
      hint: "the launcher has ended, or the job's token is wrong",
    });
    try {
      for await (const chunk of this.#conn.readable) {
        for (const frame of decoder.push(chunk)) this.#handle(frame);
      }
    } catch (cause) {
      failure = new StoreError("Cannot use the store: its connection was lost", { cause });
    }
    this.#close(failure);
  }

  #handle(frame: StoreFrame): void {
    if (frame.op === OP.pushAbort) {
      const reason = text(frame.fields[0]);
      this.#aborted.resolve(reason);
      for (const listener of this.#abortListeners) listener(reason);
      return;
    }
    if (frame.op === OP.pushLeft) {
      const rank = Number(text(frame.fields[0]));
      this.#left.add(rank);
      for (const listener of this.#leftListeners) listener(rank);
      return;
    }
    const request = this.#pending.get(frame.id);
    if (request === undefined) return;
    this.#pending.delete(frame.id);
    if (this.#pending.size === 0) this.#conn.unref();
    if (frame.op === OP.ok) request.resolve(frame.fields);
    else request.reject(new StoreError(text(frame.fields[1])));
  }

  #close(error: StoreError): void {
    if (this.#closed !== undefined) return;
    this.#closed = error;
    for (const request of this.#pending.values()) request.reject(error);
    this.#pending.clear();
    try {
      this.#conn.close();
    } catch {
      // The other side was faster.
    }
    this.#ended.resolve();
  }
}

class PrefixStore implements Store {
  readonly #inner: Store;
  readonly #prefix: string;

  constructor(inner: Store, prefix: string) {
    this.#inner = inner;
    this.#prefix = prefix;
  }

  set(key: string, value: Uint8Array): Promise<void> {
    return this.#inner.set(this.#prefix + key, value);
  }

  get(key: string, options?: StoreWaitOptions): Promise<Uint8Array> {
    return this.#inner.get(this.#prefix + key, options);
  }

  add(key: string, n: number): Promise<number> {
    return this.#inner.add(this.#prefix + key, n);
  }

  compareSet(key: string, expected: Uint8Array | null, value: Uint8Array): Promise<Uint8Array> {
    return this.#inner.compareSet(this.#prefix + key, expected, value);
  }

  wait(keys: readonly string[], options?: StoreWaitOptions): Promise<void> {
    return this.#inner.wait(keys.map((key) => this.#prefix + key), options);
  }

  delete(key: string): Promise<boolean> {
    return this.#inner.delete(this.#prefix + key);
  }

  async list(prefix: string): Promise<string[]> {
    return (await this.#inner.list(this.#prefix + prefix)).map((key) => key.slice(this.#prefix.length));
  }

  prefix(prefix: string): Store {
    return new PrefixStore(this.#inner, this.#prefix + prefix);
  }
}

function one(fields: readonly Uint8Array[]): Uint8Array {
  return fields[0] ?? new Uint8Array(0);
}
