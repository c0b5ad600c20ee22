/** Bytes and seconds as people read them. */

/** Bytes for people: `9.41 kB`. */
export function printBytes(n: number): string {
  for (const [unit, size] of [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3]] as const) {
    if (n >= size) return `${(n / size).toPrecision(3)} ${unit}`;
  }
  return `${n} B`;
}

/** Seconds for people: `1.23 ms`. */
export function printSeconds(s: number): string {
  if (s === 0) return "0 s";
  return s >= 1
    ? `${s.toPrecision(3)} s`
    : s >= 1e-3
    ? `${(s * 1e3).toPrecision(3)} ms`
    : `${(s * 1e6).toPrecision(3)} µs`;
}
