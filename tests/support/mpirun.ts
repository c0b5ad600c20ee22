/** Starting ranks by a real mpirun, for tests. */
import { fileURLToPath } from "node:url";
import { openMpiEnv } from "./open_mpi.ts";
import { REPOSITORY } from "./shared.ts";

/** Whose mpirun. */
export type MpiName = "Open MPI" | "MPICH";

/** What became of a job. */
export interface MpiResult {
  readonly code: number;
  /** What ranks printed, in any order. */
  readonly lines: readonly string[];
  readonly stderr: string;
}

/** How to start ranks. */
export interface MpiOptions {
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Options of mpirun, as `--mca btl tcp,self`. */
  readonly flags?: readonly string[];
  /** Default 180 s, which only a very busy machine needs. */
  readonly timeoutMs?: number;
}

const NAMES: Readonly<Record<MpiName, readonly string[]>> = {
  "Open MPI": ["mpirun.openmpi", "mpirun"],
  MPICH: ["mpirun.mpich", "mpirun"],
};

/** What `--version` of each says. */
const SAYS: Readonly<Record<MpiName, RegExp>> = { "Open MPI": /Open MPI/, MPICH: /HYDRA|MPICH/ };

/** An installed mpirun. */
export interface Mpirun {
  readonly command: string;
  readonly mpi: MpiName;
}

/** The mpirun of `mpi`; undefined, after saying why, where there is none. */
export async function mpirunOrSkip(mpi: MpiName): Promise<Mpirun | undefined> {
  for (const name of NAMES[mpi]) {
    try {
      const { stdout, stderr } = await new Deno.Command(name, { args: ["--version"] }).output();
      if (SAYS[mpi].test(new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr))) {
        return { command: name, mpi };
      }
    } catch {
      // not installed under this name
    }
  }
  // deno-lint-ignore no-console
  console.log(`skipped: no mpirun of ${mpi} is installed`);
  return undefined;
}

/** Runs `size` ranks of `program`, a module's URL. */
export async function mpirun(
  { command, mpi }: Mpirun,
  size: number,
  program: URL,
  options: MpiOptions = {},
): Promise<MpiResult> {
  const { code, stdout, stderr } = await new Deno.Command(command, {
    args: [
      ...mpi === "Open MPI" ? ["--oversubscribe"] : [],
      ...["-n", `${size}`],
      ...options.flags ?? [],
      ...[Deno.execPath(), "run", "-A", "--no-prompt", fileURLToPath(program), ...options.args ?? []],
    ],
    cwd: REPOSITORY,
    env: { ...openMpiEnv(), NO_COLOR: "1", ...options.env },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    signal: AbortSignal.timeout(options.timeoutMs ?? 180_000),
  }).output();
  const text = new TextDecoder();
  return { code, lines: text.decode(stdout).split("\n").filter((l) => l !== ""), stderr: text.decode(stderr) };
}
