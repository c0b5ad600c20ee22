/** The store's keys and those who wait for them. Pure: the server gives it requests and clients' replies. */

/** Somebody who waits for keys. */
interface Waiter {
  readonly keys: readonly string[];
  readonly missing: Set<string>;
  readonly done: () => void;
}

/** The most bytes of keys and values that a store holds. */
const MOST_BYTES = 256 * 1024 * 1024;

/** A map from keys to bytes on which several can wait. */
export class StoreState {
  readonly #values = new Map<string, Uint8Array>();
  readonly #waiters = new Map<string, Set<Waiter>>();
  #bytes = 0;

  /** The value of `key`. */
  get(key: string): Uint8Array | undefined {
    return this.#values.get(key);
  }

  /** Sets `key` and wakes who waits for it; false if the store is full. */
  set(key: string, value: Uint8Array): boolean {
    const grown = value.length + 2 * key.length - (this.#size(key) ?? 0);
    if (this.#bytes + grown > MOST_BYTES) return false;
    this.#bytes += grown;
    this.#values.set(key, value);
    const waiters = this.#waiters.get(key);
    if (waiters !== undefined) {
      this.#waiters.delete(key);
      for (const waiter of waiters) {
        waiter.missing.delete(key);
        if (waiter.missing.size === 0) waiter.done();
      }
    }
    return true;
  }

  /** Removes `key`; whether it existed. */
  delete(key: string): boolean {
    this.#bytes -= this.#size(key) ?? 0;
    return this.#values.delete(key);
  }

  /** The keys that start with `prefix`, sorted. */
  list(prefix: string): string[] {
    return [...this.#values.keys()].filter((key) => key.startsWith(prefix)).sort();
  }

  /** Removes all keys but those that start with `prefix`. Who waits goes on waiting. */
  keepOnly(prefix: string): void {
    for (const key of [...this.#values.keys()]) if (!key.startsWith(prefix)) this.delete(key);
  }

  /** Calls `done` once all `keys` have existed since the call, maybe at once. The result names those still missing and gives up. */
  wait(keys: readonly string[], done: () => void): () => string[] {
    const missing = new Set(keys.filter((key) => !this.#values.has(key)));
    if (missing.size === 0) {
      done();
      return () => [];
    }
    const waiter: Waiter = { keys, missing, done };
    for (const key of missing) {
      let waiters = this.#waiters.get(key);
      if (waiters === undefined) this.#waiters.set(key, waiters = new Set());
      waiters.add(waiter);
    }
    return () => {
      for (const key of missing) {
        const waiters = this.#waiters.get(key);
        waiters?.delete(waiter);
        if (waiters?.size === 0) this.#waiters.delete(key);
      }
      return [...missing];
    };
  }

  #size(key: string): number | undefined {
    const value = this.#values.get(key);
    return value === undefined ? undefined : value.length + 2 * key.length;
  }
}
