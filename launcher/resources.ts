/** What each rank of this host gets: how many there are, their command lines, CPUs, threads and GPUs. */
import type { EnvRecord } from "../src/core/env_record.ts";
import { UnavailableError, UsageError } from "../src/core/errors.ts";
import type { LaunchConfig } from "./config.ts";
import { cpuCount, visibleGpus } from "./host.ts";
import { type CommandLine, rankCommand } from "./rank_env.ts";

/** How many ranks a word means. @throws {UsageError} If GPUs are asked for and there are none. */
export function resolveRankCount(count: NonNullable<LaunchConfig["nproc"]>): number {
  if (typeof count === "number") {
    if (!Number.isInteger(count) || count < 1) {
      throw new UsageError(`Cannot start ${count} ranks: expected a whole number from 1 on`);
    }
    return count;
  }
  const gpus = count === "cpu" ? 0 : visibleGpus().length;
  if (count === "gpu" && gpus === 0) {
    throw new UsageError("Cannot start a rank per GPU: no GPU was found", {
      hint: "use --nproc cpu, or check CUDA_VISIBLE_DEVICES and /dev/nvidia0",
    });
  }
  return gpus > 0 ? gpus : cpuCount();
}

/** The command lines of the local ranks, and how many threads each may use. `say` hears of bundles and bindings. */
export async function rankCommands(
  config: LaunchConfig,
  nproc: number,
  say: (line: string) => void,
): Promise<{ command: CommandLine[]; threads: number[] }> {
  const { bind = "none", bundle, program } = config;
  let script = program.kind === "deno" ? program.script : "";
  let extra: readonly string[] = [];
  if (bundle && program.kind === "deno") {
    const { bundleScript } = await import("./bundle.ts");
    ({ script, extra } = await bundleScript(script, say));
  }
  const line = rankCommand(config, script, extra);
  const share = Math.max(1, Math.floor(cpuCount() / nproc));
  if (bind === "none") return { command: Array(nproc).fill(line), threads: Array(nproc).fill(share) };
  const { bindings, bound } = await import("./binding.ts");
  const cpus = bindings(bind, nproc);
  cpus.forEach((list, local) => say(`local rank ${local} runs on CPU ${list.join(",")}`));
  return {
    command: cpus.map((list) => bound(line, list)),
    threads: bind === "core" ? cpus.map((list) => list.length) : Array(nproc).fill(share),
  };
}

/** Lines on what ranks with `threads` threads each share; `env` is what they inherit. */
export function describeResources(env: EnvRecord, threads: readonly number[]): string[] {
  const cpus = cpuCount(), set = env.OMP_NUM_THREADS;
  return [
    ...(threads.length > cpus ? [`${threads.length} ranks share ${cpus} CPUs`] : []),
    set === undefined
      ? `OMP_NUM_THREADS is ${[...new Set(threads)].join(" or ")}, a rank's share of the CPUs`
      : `OMP_NUM_THREADS is ${set}, as it was set`,
  ];
}

/** With `isolateDevices`: the variable that hides the other ranks' GPUs. @throws {UnavailableError} If there are none. */
export function ownDevice(config: LaunchConfig, localRank: number): Record<string, string> {
  if (!config.isolateDevices) return {};
  const gpus = visibleGpus();
  if (gpus.length === 0) {
    throw new UnavailableError("Cannot give each rank a GPU of its own: no GPU was found", {
      hint: "leave --isolate-devices out, or check CUDA_VISIBLE_DEVICES and /dev/nvidia0",
    });
  }
  return { CUDA_VISIBLE_DEVICES: gpus[localRank % gpus.length]! };
}
