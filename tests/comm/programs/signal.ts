// deno-lint-ignore-file no-console -- a rank reports to its test by its output
// Rank 0 waits in a collective for rank 1, which sends it a signal instead of coming.
import { init } from "../../../src/runtime/comm/init.ts";

const comm = await init();
Deno.addSignalListener("SIGUSR2", () => {
  console.log("handled");
  Deno.exit(3);
});
const pids = await comm.objects.allGather(Deno.pid);
if (comm.rank === 0) await comm.barrier();
await new Promise((resolve) => setTimeout(resolve, 500));
Deno.kill(pids[0]!, "SIGUSR2");
