/** Which CPUs a rank may use with `--bind`: a share of the cores, or one NUMA node. */
import { UnavailableError } from "../src/core/errors.ts";
import { readText } from "./host.ts";

/** The CPUs of each local rank. Cores are dealt in runs, so that neighbours share caches. More ranks than CPUs share them in turn. Pure. */
export function shareCpus(cpus: readonly number[], ranks: number): number[][] {
  if (cpus.length < ranks) return Array.from({ length: ranks }, (_, r) => [cpus[r % cpus.length]!]);
  const first = (r: number) => r * Math.floor(cpus.length / ranks) + Math.min(r, cpus.length % ranks);
  return Array.from({ length: ranks }, (_, r) => cpus.slice(first(r), first(r + 1)));
}

/** The CPUs of each local rank when ranks are dealt in runs over NUMA nodes: all allowed CPUs of its node. Pure. */
export function shareNodes(nodes: readonly (readonly number[])[], ranks: number): number[][] {
  const usable = nodes.filter((cpus) => cpus.length > 0);
  return Array.from(
    { length: ranks },
    (_, r) => [...usable[Math.floor(r * usable.length / Math.max(ranks, usable.length))]!],
  );
}

/** Numbers of a list such as `0-3,8`. Pure. */
export function parseCpuList(text: string): number[] {
  return text.trim().split(",").filter((part) => part !== "").flatMap((part) => {
    const [from, to = from] = part.split("-").map(Number);
    return Array.from({ length: to! - from! + 1 }, (_, i) => from! + i);
  });
}

/** The CPUs of each local rank on this host. @throws {UnavailableError} If the host does not tell its CPUs. */
export function bindings(kind: "core" | "numa", ranks: number): number[][] {
  const allowed = /^Cpus_allowed_list:\s*(.*)$/m.exec(readText("/proc/self/status") ?? "")?.[1];
  if (allowed === undefined) {
    throw new UnavailableError("Cannot bind ranks to CPUs: /proc/self/status does not tell which there are", {
      hint: "use --bind none",
    });
  }
  const cpus = parseCpuList(allowed);
  if (kind === "core") return shareCpus(cpus, ranks);
  const nodes: number[][] = [];
  for (let n = 0;; n++) {
    const list = readText(`/sys/devices/system/node/node${n}/cpulist`);
    if (list === undefined) break;
    nodes.push(parseCpuList(list).filter((cpu) => cpus.includes(cpu)));
  }
  return shareNodes(nodes.some((node) => node.length > 0) ? nodes : [cpus], ranks);
}

/** `command` started on `cpus` by taskset. @throws {UnavailableError} If taskset is missing. */
export function bound(
  start: { readonly command: string; readonly args: readonly string[] },
  cpus: readonly number[],
): { readonly command: string; readonly args: readonly string[] } {
  for (const path of ["/usr/bin/taskset", "/bin/taskset"]) {
    try {
      if (Deno.statSync(path).isFile) {
        return { command: path, args: ["-c", cpus.join(","), start.command, ...start.args] };
      }
    } catch {
      // Look in the next folder.
    }
  }
  throw new UnavailableError("Cannot bind ranks to CPUs: taskset was not found in /usr/bin or /bin", {
    hint: "install util-linux, or use --bind none",
  });
}
