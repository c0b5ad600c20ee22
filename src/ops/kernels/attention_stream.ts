/** What kernels share that go through keys once, with scores that never lie in memory. */
import type { Access, AttentionSizes, Params, Pointer } from "./kernel.ts";

/** An attention whose scores never lie in memory. Accesses are over `[batch, heads, queries, …]`, with a last stride of 1. */
export interface AttentionStream {
  readonly sizes: AttentionSizes;
  readonly query: Access;
  /** Over `[batch, kvHeads, keys, size]`, and with `valueSize` for values. */
  readonly key: Access;
  readonly value: Access;
  readonly result: Access;
  /** Over `[batch, heads, queries, keys]`. */
  readonly reads: readonly Access[];
  /** Of `dot`, `x0`, … (reads), `i0`, `i1`, `i2` and `r0`, the key. */
  readonly score: string;
  /** Keys from the first up to the second are looked at, all by default; so memory on the device may tell how many there are. */
  readonly from?: string | undefined;
  readonly until?: string | undefined;
  readonly params: Params;
}

/** Where queries, keys and values lie. */
export function pointers({ query, key, value }: AttentionStream): Record<string, Pointer> {
  return { q: { operand: query.operand }, k: { operand: key.operand }, v: { operand: value.operand } };
}

/** What the accesses to a key and its value add where the key is called `at` and its head `kv`. */
export function keyAndValue({ key, value }: AttentionStream, at: string, params: Record<string, number>): string[] {
  return ([["sk", key], ["sv", value]] as const).map(([name, access]) =>
    strided(name, access, params).replaceAll("i1", "kv").replaceAll("i2", at)
  );
}

/** What an access adds for dims `i0`, `i1`, `i2`, with its numbers among `params`. */
export function strided(name: string, { offset, strides }: Access, params: Record<string, number>): string {
  const terms = strides.slice(0, 3).flatMap((s, d) => {
    if (s === 0) return [];
    params[`${name}_${d}`] = s;
    return [`i${d} * ${name}_${d}`];
  });
  if (offset === 0) return terms.join(" + ") || "0";
  params[`${name}_at`] = offset;
  return [`${name}_at`, ...terms].join(" + ");
}

/** Loads of the reads that `expressions` name: those that no key moves, and those that each key does. */
export function loads(
  attention: AttentionStream,
  to: { readonly reads: Record<string, Pointer>; readonly params: Record<string, number> },
): { readonly once: string; readonly each: string } {
  const { score, from = "", until = "" } = attention, once: string[] = [], each: string[] = [];
  attention.reads.forEach((read, r) => {
    if (!new RegExp(`\\bx${r}\\b`).test(`${score} ${from} ${until}`)) return;
    to.reads[`p${r}`] = { operand: read.operand };
    const at = strided(`s${r}`, read, to.params), step = read.strides[3]!;
    if (step !== 0) to.params[`s${r}_3`] = step;
    (step === 0 ? once : each).push(`const auto x${r} = ld(p${r}[${at}${step === 0 ? "" : ` + r0 * s${r}_3`}]);`);
  });
  return { once: once.join(" "), each: each.join(" ") };
}

/** The caller's numbers that its expressions name. */
export function used({ params, score, from = "", until = "" }: AttentionStream): Params {
  const text = `${score} ${from} ${until}`;
  return Object.fromEntries(Object.entries(params).filter(([name]) => new RegExp(`\\b${name}\\b`).test(text)));
}
