/**
 * Run ids: the names of a job on one host, and with them the names of its shared memory.
 *
 * Every shared-memory object of a job is a file of /dev/shm named `shardwise-<runId>-…`. A run id is
 * `<pid>-<starttime>-<pid namespace>-<random>` of the launcher, so that anyone can tell whether the job still lives: the pair of
 * pid and start time names one process of a boot, and the namespace says in which container the pid counts.
 */

/** What a run id says about the process that made it. */
export interface RunIdParts {
  readonly pid: number;
  /** Clock ticks since boot, field 22 of /proc/PID/stat. */
  readonly startTime: string;
  /** The inode of /proc/PID/ns/pid; `0` where there is none. */
  readonly namespace: string;
  readonly random: string;
}

/** Every shared-memory object of any job starts with this. */
export const SHM_PREFIX = "shardwise-";

/** The run id of `parts`. */
export function formatRunId(parts: RunIdParts): string {
  return `${parts.pid}-${parts.startTime}-${parts.namespace}-${parts.random}`;
}

/** The parts of a run id that {@linkcode formatRunId} made; undefined for the ids that schedulers give. */
export function parseRunId(runId: string): RunIdParts | undefined {
  const m = /^([1-9]\d{0,9})-(\d{1,20})-(\d{1,20})-([0-9a-f]{4,32})$/.exec(runId);
  if (m === null) return undefined;
  return { pid: Number(m[1]), startTime: m[2]!, namespace: m[3]!, random: m[4]! };
}

/** The run id in the name of a shared-memory object, as {@linkcode parseRunId} reads it; undefined if it has none. */
export function runIdOfShmName(name: string): RunIdParts | undefined {
  if (!name.startsWith(SHM_PREFIX)) return undefined;
  const fields = name.slice(SHM_PREFIX.length).split("-");
  return fields.length < 5 ? undefined : parseRunId(fields.slice(0, 4).join("-"));
}

/** `text` as it may stand in a file name: other characters than letters, digits, `.` and `_` become `_`. */
export function fileSafe(text: string): string {
  return text.replace(/[^A-Za-z0-9._]/g, "_").slice(0, 80);
}

/** `bytes` random bytes as hexadecimal digits. */
export function randomHex(bytes: number): string {
  return [...crypto.getRandomValues(new Uint8Array(bytes))].map((b) => b.toString(16).padStart(2, "0")).join("");
}

/** A number in [0, 4096) that depends on all of `text` (FNV-1a): the same on every rank. */
export function hash12(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193) >>> 0;
  return (h ^ (h >>> 12) ^ (h >>> 24)) & 0xfff;
}
