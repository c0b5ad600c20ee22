/** Ends the launcher when the `deno task` that started it is killed: `deno task` passes signals on, but not SIGKILL. */
import { readText } from "./host.ts";

const PR_SET_PDEATHSIG = 1, SIGTERM = 15n;

/**
 * Asks the kernel for SIGTERM at the parent's death, if the parent is `deno task`. Other parents, such as a shell that starts a job in
 * the background and ends, may well die before their job.
 */
export function endWithDenoTask(): void {
  const parent = Deno.ppid;
  const args = (readText(`/proc/${parent}/cmdline`) ?? "").split("\0");
  if (!/(^|\/)deno$/.test(args[0] ?? "") || !args.slice(1, 4).includes("task")) return;
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
