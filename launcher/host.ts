/** Facts of this host: processes, CPUs, GPUs, and the run id that names this launcher. */
import { formatRunId, randomHex, type RunIdParts } from "../src/core/run_id.ts";

/** The text of a file, or undefined if it cannot be read. */
export function readText(path: string): string | undefined {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return undefined;
  }
}

/** State letter and start time of a process, or undefined if there is none. */
export function processStat(pid: number): { readonly state: string; readonly startTime: string } | undefined {
  const stat = readText(`/proc/${pid}/stat`);
  if (stat === undefined) return undefined;
  // The second field is the program's name in parentheses, and may contain anything.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return { state: fields[0]!, startTime: fields[19]! };
}

/** The namespace in which this process's pid counts. */
export function pidNamespace(): string {
  try {
    return /\d+/.exec(Deno.readLinkSync("/proc/self/ns/pid"))?.[0] ?? "0";
  } catch {
    return "0";
  }
}

/** A new run id for a job of this process. */
export function newRunId(): string {
  return formatRunId({
    pid: Deno.pid,
    startTime: processStat(Deno.pid)?.startTime ?? "0",
    namespace: pidNamespace(),
    random: randomHex(4),
  });
}

/** Whether the process that made a run id is known to be dead. Jobs of other pid namespaces are never known to be. */
export function isDead(id: RunIdParts, namespace: string): boolean {
  if (id.namespace !== namespace || id.startTime === "0") return false;
  const stat = processStat(id.pid);
  return stat === undefined || stat.startTime !== id.startTime || stat.state === "Z" || stat.state === "X";
}

/** How many CPUs this process may use: its affinity mask and cgroup quota, not the machine's number. */
export function cpuCount(): number {
  return Math.max(1, navigator.hardwareConcurrency);
}

/** The NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them. */
export function visibleGpus(): string[] {
  const visible = Deno.env.get("CUDA_VISIBLE_DEVICES");
  if (visible !== undefined) return visible.split(",").map((d) => d.trim()).filter((d) => d !== "" && d !== "-1");
  try {
    return [...Deno.readDirSync("/dev")].flatMap(({ name }) => /^nvidia(\d+)$/.exec(name)?.[1] ?? [])
      .sort((a, b) => Number(a) - Number(b));
  } catch {
    return [];
  }
}

/** How many processes of this cgroup the kernel has killed for want of memory; 0 where it does not tell. */
export function oomKills(): number {
  const group = /^0::(.*)$/m.exec(readText("/proc/self/cgroup") ?? "")?.[1] ?? "";
  const events = readText(`/sys/fs/cgroup${group}/memory.events`) ?? "";
  return Number(/^oom_kill (\d+)$/m.exec(events)?.[1] ?? 0);
}
