/** What follows from a key, worked out once. */

/** A function that remembers its results, by identity of its argument. */
export class Memo<K, V> {
  readonly #compute: (key: K) => V;
  readonly #known = new Map<K, V>();

  constructor(compute: (key: K) => V) {
    this.#compute = compute;
  }

  /** How many results are known. */
  get size(): number {
    return this.#known.size;
  }

  /** The result for `key`. */
  of(key: K): V {
    let value = this.#known.get(key);
    if (value === undefined && !this.#known.has(key)) this.#known.set(key, value = this.#compute(key));
    return value as V;
  }
}
