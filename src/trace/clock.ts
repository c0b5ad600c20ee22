/**
 * Aligning the clocks of ranks: after a barrier all ranks read theirs at nearly the same moment, and the differences between the
 * readings are the differences between the clocks. Many rounds, and the median of them, take out who was late once.
 */

/** What reading clocks together needs. */
export interface ClockGroup {
  readonly rank: number;
  readonly size: number;
  barrierSync(): void;
  readonly objects: { allGather<T>(value: T): Promise<T[]> };
}

/** How clocks of ranks relate. */
export interface ClockAlignment {
  /** By rank: what to subtract from its times to get those of rank 0, in milliseconds. */
  readonly offsets: readonly number[];
  /** Half of the spread of the differences, of the worst rank: milliseconds by which an offset may be wrong. */
  readonly error: number;
}

const ROUNDS = 31;

/** Measures the clocks of all ranks; all call it together. */
export async function alignClocks(group: ClockGroup, now: () => number): Promise<ClockAlignment> {
  const readings: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    group.barrierSync();
    readings.push(now());
  }
  return clockOffsets(await group.objects.allGather(readings));
}

/** The alignment that readings of `readings[rank][round]` give. */
export function clockOffsets(readings: readonly (readonly number[])[]): ClockAlignment {
  const [first = []] = readings;
  const aligned = readings.map((own) => {
    const differences = own.map((t, i) => t - first[i]!).sort((a, b) => a - b);
    const at = (share: number) => differences[Math.floor(share * (differences.length - 1))]!;
    return { offset: at(0.5), error: (at(0.75) - at(0.25)) / 2 };
  });
  return { offsets: aligned.map((a) => a.offset), error: Math.max(0, ...aligned.map((a) => a.error)) };
}
