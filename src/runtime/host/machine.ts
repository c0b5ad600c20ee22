/** What a machine has, as far as this process may use it. */
import type { HostFiles } from "./host_files.ts";

/** CPUs. */
export interface Cpus {
  readonly model: string | undefined;
  /** Of the whole machine. */
  readonly online: number;
  /** That this process may run on: `0-3,8`. */
  readonly allowed: string | undefined;
  readonly allowedCount: number;
  /** CPU time a second that the control group grants, in CPUs; undefined without a limit. */
  readonly quota: number | undefined;
  readonly numaNodes: number;
}

/** Memory, in bytes. */
export interface Memory {
  readonly total: number;
  /** That could be used now without swapping. */
  readonly available: number;
  /** The control group's; undefined without one, or with one beyond the machine's memory. */
  readonly limit: number | undefined;
  readonly used: number | undefined;
  /** `always`, `madvise` or `never`; undefined where the kernel has no such thing. */
  readonly hugePages: string | undefined;
  /** The same for shared memory. */
  readonly sharedHugePages: string | undefined;
  /** Bytes of /dev/shm; undefined if there is none. */
  readonly shm: { readonly total: number; readonly free: number } | undefined;
}

/** GPUs, as the kernel's driver lists them. */
export interface Gpus {
  readonly models: readonly string[];
  readonly driver: string | undefined;
}

/** A machine. */
export interface Machine {
  readonly cpus: Cpus;
  readonly memory: Memory;
  readonly gpus: Gpus;
}

/** Reads the machine's facts; what cannot be read is absent. */
export function readMachine(files: HostFiles): Machine {
  return { cpus: readCpus(files), memory: readMemory(files), gpus: readGpus(files) };
}

/** Numbers in a list such as `0-3,8`. Pure. */
export function countOf(list: string): number {
  return list.split(",").filter((part) => part !== "").reduce((sum, part) => {
    const [from, to = from] = part.split("-").map(Number);
    return sum + to! - from! + 1;
  }, 0);
}

function readCpus(files: HostFiles): Cpus {
  const online = files.text("/sys/devices/system/cpu/online");
  const allowed = /^Cpus_allowed_list:\s*(\S+)/m.exec(files.text("/proc/self/status") ?? "")?.[1];
  const count = online === undefined ? navigator.hardwareConcurrency : countOf(online);
  // Where a control group's folder is not mounted at its own path (in containers), its files are at the root.
  const quotas = groupFolders(files, "cpu").flatMap((dir) => {
    const v2 = files.text(`${dir}/cpu.max`); // "200000 100000", or "max 100000"
    const [limit, period] = v2?.split(" ") ?? [
      files.text(`${dir}/cpu.cfs_quota_us`),
      files.text(`${dir}/cpu.cfs_period_us`),
    ];
    const cpus = Number(limit) / Number(period);
    return Number.isFinite(cpus) && cpus > 0 ? [cpus] : [];
  });
  return {
    model: /^(?:model name|Model)\s*:\s*(.+)$/m.exec(files.text("/proc/cpuinfo") ?? "")?.[1],
    online: count,
    allowed,
    allowedCount: allowed === undefined ? count : countOf(allowed),
    quota: quotas.length === 0 ? undefined : Math.min(...quotas),
    numaNodes: Math.max(1, files.names("/sys/devices/system/node").filter((name) => /^node\d+$/.test(name)).length),
  };
}

function readMemory(files: HostFiles): Memory {
  const info = files.text("/proc/meminfo") ?? "";
  const bytes = (name: string) => Number(new RegExp(`^${name}:\\s*(\\d+) kB`, "m").exec(info)?.[1] ?? 0) * 1024;
  const total = bytes("MemTotal");
  let limit: number | undefined, used: number | undefined;
  for (const dir of groupFolders(files, "memory")) {
    const found = Number(files.text(`${dir}/memory.max`) ?? files.text(`${dir}/memory.limit_in_bytes`) ?? NaN);
    // Without a limit, "max" or a number beyond any machine's memory stands there.
    if (!(found < total) || (limit !== undefined && found >= limit)) continue;
    limit = found;
    const now = Number(files.text(`${dir}/memory.current`) ?? files.text(`${dir}/memory.usage_in_bytes`) ?? NaN);
    used = Number.isFinite(now) ? now : undefined;
  }
  const chosen = (name: string) =>
    /\[(\S+)\]/.exec(files.text(`/sys/kernel/mm/transparent_hugepage/${name}`) ?? "")?.[1];
  return {
    total,
    available: bytes("MemAvailable"),
    limit,
    used,
    hugePages: chosen("enabled"),
    sharedHugePages: chosen("shmem_enabled"),
    shm: files.space("/dev/shm"),
  };
}

function readGpus(files: HostFiles): Gpus {
  const root = "/proc/driver/nvidia";
  const models = files.names(`${root}/gpus`).map((name) =>
    /^Model:\s*(.+)$/m.exec(files.text(`${root}/gpus/${name}/information`) ?? "")?.[1] ?? "unknown model"
  );
  const devices = files.names("/dev").filter((name) => /^nvidia\d+$/.test(name));
  return {
    // In containers only the devices may be there.
    models: models.length > 0 ? models : devices.map((name) => `/dev/${name}`),
    driver: /Kernel Module(?: for \S+)?\s+(\d[\d.]*)/.exec(files.text(`${root}/version`) ?? "")?.[1],
  };
}

/** Folders whose limits count for this process, by either version of control groups: its own, and those above. */
function groupFolders(files: HostFiles, controller: string): string[] {
  const lines = (files.text("/proc/self/cgroup") ?? "").split("\n").map((line) => line.split(":"));
  const path = (wanted: (controllers: string) => boolean) =>
    lines.find(([, controllers]) => controllers !== undefined && wanted(controllers))?.slice(2).join(":") ?? "/";
  const v1 = path((controllers) => controllers.split(",").includes(controller)), v2 = path((c) => c === "");
  return [...upward("/sys/fs/cgroup", v2), ...upward(`/sys/fs/cgroup/${controller}`, v1)];
}

function upward(root: string, path: string): string[] {
  const parts = path.split("/").filter((part) => part !== "" && part !== "..");
  return Array.from({ length: parts.length + 1 }, (_, n) => [root, ...parts.slice(0, n)].join("/"));
}
