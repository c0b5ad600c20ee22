/**
 * Which process is it, and does it still live? A pid alone does not say: it is reused, and it stays as a zombie until the
 * parent looks. A pid together with its start time in clock ticks since boot is unique.
 */

/** A process, for ever. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Clock ticks since boot, cut to 31 bits so that it fits a word of shared memory. */
  readonly startTime: number;
}

/** This process. */
export function ownIdentity(): ProcessIdentity {
  return { pid: Deno.pid, startTime: processStartTime(Deno.pid) ?? 0 };
}

/** The space in which pids are what this process takes them for: equal words mean one running system and one pid namespace. */
export function pidSpace(): string {
  return `${Deno.readTextFileSync("/proc/sys/kernel/random/boot_id").trim()} ${Deno.readLinkSync("/proc/self/ns/pid")}`;
}

/** Whether `process` still runs; a zombie does not. A process of another pid namespace cannot be seen and counts as dead. */
export function isAlive(process: ProcessIdentity): boolean {
  return processStartTime(process.pid) === process.startTime;
}

/** The cores that the process of `pid` may use, by affinity; none where that cannot be seen. */
export function allowedCores(pid: number): ReadonlySet<number> {
  let status: string;
  try {
    status = Deno.readTextFileSync(`/proc/${pid}/status`);
  } catch {
    return new Set(); // it has ended; whoever waits for it will say so
  }
  return parseCores(/^Cpus_allowed_list:\s*(\S+)/m.exec(status)?.[1] ?? "");
}

/** The numbers of a list such as `0-3,8`. */
export function parseCores(list: string): ReadonlySet<number> {
  const cores = new Set<number>();
  for (const part of list.split(",").filter((p) => p !== "")) {
    const [first, last = first] = part.split("-").map(Number) as [number, number?];
    for (let core = first; core <= last; core++) cores.add(core);
  }
  return cores;
}

/** The start time of the process that has `pid` now; undefined if there is none or only its zombie. */
function processStartTime(pid: number): number | undefined {
  let stat: string;
  try {
    stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    if (error instanceof Error && /ESRCH|No such process/.test(error.message)) return undefined; // ended while we read
    throw error;
  }
  // The command's name stands in parentheses and may hold anything, so count fields from the last one.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" "); // [0] is the state, field 3 of proc(5)
  if (fields[0] === "Z" || fields[0] === "X") return undefined;
  return Number(fields[19]) % 0x7fffffff;
}
