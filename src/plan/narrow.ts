/** The order in which the search looks at calls. */

/** What a call reads and writes: values, each once. */
export interface Touches {
  readonly reads: readonly string[];
  readonly writes: readonly string[];
}

/**
 * An order of calls in which few values with many placements are live at once: always the call next that adds least, the
 * earliest of several. The order in which a rank runs them later is another matter.
 */
export function narrow<T extends Touches>(items: readonly T[], weight: (value: string) => number): T[] {
  const readers = new Map<string, number[]>(), left = new Map<string, number>();
  items.forEach(({ reads }, i) => {
    for (const v of reads) {
      const list = readers.get(v);
      if (list) list.push(i);
      else readers.set(v, [i]);
    }
  });
  for (const [v, list] of readers) left.set(v, list.length);
  const made = new Set(items.flatMap(({ writes }) => writes));
  const waits = items.map(({ reads }) => reads.filter((v) => made.has(v)).length);
  const live = new Set<string>();
  const added = (i: number) => {
    let sum = 0;
    for (const v of items[i]!.writes) if (readers.has(v)) sum += weight(v);
    for (const v of items[i]!.reads) {
      if (left.get(v) === 1) sum -= live.has(v) ? weight(v) : 0;
      else if (!live.has(v)) sum += weight(v);
    }
    return sum;
  };
  /** Calls that could be next, with what each adds. It changes only when something that the call reads does. */
  const ready = new Map<number, number>();
  items.forEach((_, i) => waits[i] === 0 && ready.set(i, added(i)));
  const order: T[] = [];
  while (ready.size > 0) {
    let next = -1, least = Infinity;
    for (const [i, sum] of ready) {
      if (sum < least - 1e-9 || (sum < least + 1e-9 && i < next)) [next, least] = [i, sum];
    }
    ready.delete(next);
    const { reads, writes } = items[next]!;
    order.push(items[next]!);
    for (const v of reads) {
      const rest = left.get(v)! - 1, wasLive = live.has(v);
      left.set(v, rest);
      if (rest > 0) live.add(v);
      else live.delete(v);
      // What a call adds depends on whether a value is live, and on whether the call is its last reader.
      if (wasLive !== rest > 0 || rest === 1) {
        for (const r of readers.get(v)!) if (ready.has(r)) ready.set(r, added(r));
      }
    }
    for (const v of writes) {
      live.add(v);
      for (const r of readers.get(v) ?? []) if (--waits[r]! === 0) ready.set(r, added(r));
    }
  }
  return order;
}
