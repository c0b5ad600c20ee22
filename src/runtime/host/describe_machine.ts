/** The machine in a line, for what is measured on it. */
import { THIS_HOST } from "./host_files.ts";
import { readMachine } from "./machine.ts";

/** Processor, cores, memory, system, versions. */
export function describeMachine(): string {
  const { cpus: { model } } = readMachine(THIS_HOST);
  return [
    model ?? Deno.build.arch,
    `${navigator.hardwareConcurrency} cores`,
    `${Math.round(Deno.systemMemoryInfo().total / 2 ** 30)} GiB`,
    `${Deno.build.os} ${Deno.osRelease()}`,
    `Deno ${Deno.version.deno}`,
  ].join(", ");
}
