/** What a machine's facts mean for whoever runs models on it, in plain words. Pure. */
import { installHint } from "../../ffi/cuda_libraries.ts";
import type { HostReport } from "./host_report.ts";

/** One sentence. `problem`: something will not work. `note`: something will be slower or smaller than it might be. */
export interface Advice {
  readonly kind: "good" | "note" | "problem";
  readonly text: string;
}

/** Less shared memory than this is a container's default, and too little for weights. */
const SMALL_SHM = 256 << 20;

/** The meaning of a report, most important facts first. */
export function advise(report: Pick<HostReport, "machine" | "libraries" | "os">): Advice[] {
  return [
    ...adviseRanks(report),
    ...adviseMemory(report),
    ...adviseEngine(report),
    ...adviseGpus(report),
    ...adviseMpi(report),
  ];
}

/** CPUs that this process gets at full speed; at least 1. */
export function usableCpus({ allowedCount, quota = Infinity }: HostReport["machine"]["cpus"]): number {
  return Math.max(1, Math.floor(Math.min(allowedCount, quota)));
}

/** `24683656 kB` as `23.5 GiB`. */
export function readableBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = bytes < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10));
  return `${Number((bytes / 1024 ** power).toPrecision(3))} ${units[power]}`;
}

function adviseRanks({ machine: { cpus }, libraries, os }: Pick<HostReport, "machine" | "libraries" | "os">): Advice[] {
  const usable = usableCpus(cpus), cores = usable === 1 ? "1 core" : `${usable} cores`;
  const found: Advice[] = [{
    kind: "good",
    text: `${cores}: at most ${usable === 1 ? "1 rank runs" : `${usable} ranks run`} at full speed`,
  }];
  if (cpus.quota !== undefined && cpus.quota < cpus.allowedCount) {
    found.push({
      kind: "note",
      text: `the control group grants the time of ${Number(cpus.quota.toFixed(2))} of ${cpus.allowedCount} CPUs: ` +
        `more ranks or threads than that are paused in turn`,
    });
  } else if (cpus.allowedCount < cpus.online) {
    found.push({
      kind: "note",
      text: `this process may use ${cpus.allowedCount} of the machine's ${cpus.online} CPUs (${cpus.allowed})`,
    });
  }
  if (cpus.numaNodes > 1) {
    found.push({ kind: "note", text: `${cpus.numaNodes} NUMA nodes: \`--bind numa\` keeps a rank's memory near it` });
  }
  if (os !== "linux" || !libraries.some((l) => l.name === "libc" && l.found)) {
    found.push({
      kind: "problem",
      text: `without ${os === "linux" ? "libc through FFI" : "Linux"} only a single rank runs`,
    });
  }
  return found;
}

function adviseMemory({ machine: { memory } }: Pick<HostReport, "machine">): Advice[] {
  const room = Math.min(memory.available, memory.limit === undefined ? Infinity : memory.limit - (memory.used ?? 0));
  const found: Advice[] = [{ kind: "good", text: `${readableBytes(room)} of memory are free for all ranks together` }];
  if (memory.limit !== undefined) {
    found.push({
      kind: "note",
      text: `the control group ends processes beyond ${readableBytes(memory.limit)}; what lies in /dev/shm counts`,
    });
  }
  const { shm } = memory;
  if (shm === undefined) {
    found.push({ kind: "problem", text: "there is no /dev/shm: ranks of one host cannot share memory by name" });
  } else if (shm.total < SMALL_SHM || shm.free < SMALL_SHM / 4) {
    const size = readableBytes(shm.total), free = shm.free < shm.total ? `, ${readableBytes(shm.free)} free` : "";
    found.push({
      kind: "note",
      text:
        `/dev/shm has ${size}${free}: weights will go through temporary files (docker run --shm-size=8g makes room)`,
    });
  }
  if (memory.hugePages === "never") {
    found.push({ kind: "note", text: "huge pages are off: large weights cost more address translation" });
  }
  return found;
}

function adviseEngine({ libraries }: Pick<HostReport, "libraries">): Advice[] {
  const engine = libraries.find((l) => l.name === "onnxruntime-node");
  if (engine?.found) return [];
  return [{
    kind: "note",
    text: "onnxruntime-node does not load: models run by onnxruntime-web, several times slower",
  }];
}

function adviseGpus({ machine: { gpus }, libraries }: Pick<HostReport, "machine" | "libraries">): Advice[] {
  const has = (name: string) => libraries.some((l) => l.name === name && l.found);
  const count = gpus.models.length;
  if (count === 0) {
    return [{ kind: "good", text: has("libcuda") ? "no GPU: CPU only" : "no GPU library: CPU only" }];
  }
  const gpu = count === 1 ? "1 GPU" : `${count} GPUs`;
  const needed = [
    "libcuda",
    "libcublas",
    "libcublasLt",
    "libnvrtc",
    ...(count > 1 ? ["libnccl" as const] : []),
  ] as const;
  const missing = needed.filter((name) => !has(name));
  if (missing.length === 0) return [{ kind: "good", text: `${gpu}, and all CUDA libraries load` }];
  return missing.map((name) => ({
    kind: "note",
    text: `${gpu}, but ${name} does not load: ${name === "libnccl" ? "one GPU" : "CPU"} only (${installHint(name)})`,
  }));
}

function adviseMpi({ libraries }: Pick<HostReport, "libraries">): Advice[] {
  const mpi = libraries.find((l) => l.name === "libmpi");
  return mpi?.found
    ? []
    : [{ kind: "good", text: "no libmpi: the launcher needs none; ranks on one host share memory" }];
}
