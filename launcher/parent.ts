/**
 * Ends the launcher when the program that started it for a job of its own is killed: `deno task` and mpirun pass signals on, but not
 * SIGKILL, and would leave a job behind that nobody waits for.
 */
import { readText } from "./host.ts";

const PR_SET_PDEATHSIG = 1, SIGTERM = 15n;
/** Programs of Open MPI, PRRTE, Hydra and Slurm that start processes. */
const STARTERS = /^((mpirun|mpiexec|orterun|orted|prterun|prted)(\.[a-z]+)?|hydra_pmi_proxy|slurmstepd.*)$/;

/** Whether a process with this command line starts jobs and means to see them end. Pure. */
export function startsJobs(command: readonly string[]): boolean {
  const name = command[0]?.split("/").at(-1) ?? "";
  return name === "deno" ? command.slice(1, 4).includes("task") : STARTERS.test(name);
}

/**
 * Asks the kernel for SIGTERM at the parent's death, if the parent is one of those. Other parents, such as a shell that starts a job
 * in the background and ends, may well die before their job.
 */
export function endWithParent(): void {
  const parent = Deno.ppid;
  if (!startsJobs((readText(`/proc/${parent}/cmdline`) ?? "").split("\0"))) return;
  const libc = Deno.dlopen("libc.so.6", {
    prctl: {
      parameters: [
        "i32", // int option
        "u64", // unsigned long signal
      ],
      result: "i32",
    },
  });
  libc.symbols.prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (Deno.ppid !== parent) Deno.kill(Deno.pid, "SIGTERM");
}
