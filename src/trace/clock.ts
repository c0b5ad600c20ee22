/**
 * Aligning the clocks of ranks by the barriers at which they met.
 *
 * Nobody leaves a barrier before all have arrived. So the moment at which rank 0 arrives is not after the one at which rank r
 * leaves, and the other way round: each meeting bounds the difference of the two clocks from both sides, and the best of
 * many meetings bounds it to microseconds, however late ranks were at others.
 */

/** One barrier as a rank saw it, on its own clock, in milliseconds. */
export type Meeting = readonly [arrived: number, left: number];

/** What meeting needs. */
export interface ClockGroup {
  barrierSync(): void;
  readonly objects: { allGather<T>(value: T): Promise<T[]> };
}

/** How clocks of ranks relate. */
export interface ClockAlignment {
  /** By rank: what to subtract from its times to get those of rank 0, in milliseconds. */
  readonly offsets: readonly number[];
  /** Milliseconds by which the offset of the worst rank may be wrong. */
  readonly error: number;
}

const ROUNDS = 32;

/** Meetings for their own sake; all ranks call it together. */
export function meet(group: ClockGroup, now: () => number): Meeting[] {
  return Array.from({ length: ROUNDS }, () => {
    const arrived = now();
    group.barrierSync();
    return [arrived, now()] as const;
  });
}

/** The alignment that `meetings[rank][k]` give: all ranks' views of the same barriers. */
export function clockOffsets(meetings: readonly (readonly Meeting[])[]): ClockAlignment {
  const [first = []] = meetings;
  const bounds = meetings.map((own, rank) => {
    if (rank === 0) return { offset: 0, error: 0 };
    let least = -Infinity, most = Infinity;
    for (let k = 0; k < Math.min(own.length, first.length); k++) {
      least = Math.max(least, own[k]![0] - first[k]![1]);
      most = Math.min(most, own[k]![1] - first[k]![0]);
    }
    return { offset: (least + most) / 2, error: Math.abs(most - least) / 2 };
  });
  return { offsets: bounds.map((b) => b.offset), error: Math.max(0, ...bounds.map((b) => b.error)) };
}
