/** What this machine has, what of it loads, and what that means: the data of `shardwise doctor`. */
import { describeError } from "../../core/errors.ts";
import { type LibraryFound, probeLibraries } from "../../ffi/probe.ts";
import { describeAllReduces } from "../cuda/reduce_report.ts";
import { openLibrary } from "../cpu/ort_native.ts";
import { type Advice, advise } from "./advice.ts";
import { type HostFiles, THIS_HOST } from "./host_files.ts";
import { type Machine, readMachine } from "./machine.ts";

export type { LibraryFound } from "../../ffi/probe.ts";

/** A machine, judged. */
export interface HostReport {
  readonly os: string;
  readonly arch: string;
  readonly kernel: string;
  /** Versions of the program that runs this. */
  readonly deno: string;
  readonly v8: string;
  readonly machine: Machine;
  readonly libraries: readonly LibraryFound[];
  /** By what means GPUs all-reduce, and why; undefined where there are no two. */
  readonly allReduces: string | undefined;
  readonly advice: readonly Advice[];
}

/** Looks at this machine. Loads libraries into this process, so a process that goes on to run models should not call it. */
export async function hostReport(files: HostFiles = THIS_HOST): Promise<HostReport> {
  const [libc, ...others] = probeLibraries();
  const facts = {
    os: Deno.build.os,
    arch: Deno.build.arch,
    kernel: Deno.osRelease(),
    deno: Deno.version.deno,
    v8: Deno.version.v8,
    machine: readMachine(files),
    libraries: [libc!, await probeEngine(), ...others],
    allReduces: describeAllReduces(),
  };
  return { ...facts, advice: advise(facts) };
}

async function probeEngine(): Promise<LibraryFound> {
  const name = "onnxruntime-node", tried = ["npm:onnxruntime-node, with its libonnxruntime.so.1"];
  try {
    const { version, path } = await openLibrary();
    return { name, found: true, tried, version, path };
  } catch (error) {
    const { cause } = error as { cause?: unknown };
    const reason = cause instanceof Error ? `: ${cause.message.split("\n")[0]}` : "";
    return { name, found: false, tried, problem: describeError(error) + reason };
  }
}
