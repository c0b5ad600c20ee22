/** Medians of rounds, and the machine they were taken on. */

/** A quantity over all rounds: the median of the rounds' medians, and the least and largest of them. */
export interface Spread {
  readonly median: number;
  readonly least: number;
  readonly largest: number;
}

/** The middle of `values`, or the mean of the two middle ones; NaN for none. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[at]! : (sorted[at - 1]! + sorted[at]!) / 2;
}

/** The spread of one number a round. */
export function spreadOver(rounds: readonly number[]): Spread {
  return { median: median(rounds), least: Math.min(...rounds), largest: Math.max(...rounds) };
}

/** The machine in a line: processor, cores, memory, system, versions. */
export function describeMachine(): string {
  const { total } = Deno.systemMemoryInfo();
  return [
    processor(),
    `${navigator.hardwareConcurrency} cores`,
    `${Math.round(total / 2 ** 30)} GiB`,
    `${Deno.build.os} ${Deno.osRelease()}`,
    `Deno ${Deno.version.deno}`,
  ].join(", ");
}

function processor(): string {
  try {
    const info = Deno.readTextFileSync("/proc/cpuinfo");
    return /^model name\s*:\s*(.+)$/m.exec(info)?.[1] ?? Deno.build.arch;
  } catch {
    return Deno.build.arch; // no /proc here
  }
}
