/** How many cores this process may really use: the CPU affinity, cut by the CPU quota of its control group. */
import type { Libc } from "../../ffi/libc.ts";

/** Cores available; at least 1. */
export function availableCores(libc: Libc): number {
  return Math.max(1, Math.min(libc.affinity(), quota()));
}

/** Cores of CPU time per second that the control group grants; infinity without a limit. */
function quota(): number {
  const v2 = read("/sys/fs/cgroup/cpu.max"); // "200000 100000", or "max 100000"
  if (v2 !== undefined) return ratio(v2.split(" "));
  const limit = read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), period = read("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  return limit === undefined || period === undefined ? Infinity : ratio([limit, period]);
}

function ratio([limit, period]: readonly string[]): number {
  const cores = Number(limit) / Number(period);
  return Number.isFinite(cores) && cores > 0 ? Math.ceil(cores) : Infinity;
}

function read(path: string): string | undefined {
  try {
    return Deno.readTextFileSync(path).trim();
  } catch {
    return undefined; // no control groups, or not ours to read: then there is no limit that we could know
  }
}
