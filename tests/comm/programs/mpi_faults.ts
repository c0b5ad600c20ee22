// deno-lint-ignore-file no-console -- a rank reports to its test by its output
// What ranks are told when others are late, do something else, or give up. Prints the error as JSON, one line a rank.
import { init } from "../../../src/runtime/comm/init.ts";
import type { Communicator } from "../../../src/runtime/comm/communicator.ts";

const [fault, backend = "mpi"] = Deno.args;

/** What each rank does; undefined where it is not waited for. */
const FAULTS: Readonly<Record<string, (comm: Communicator) => Promise<unknown>>> = {
  late: async (comm) => {
    // Rank 1 computes: it neither comes nor answers, until the others have given up.
    if (comm.rank === 1) await new Promise((go) => setTimeout(go, 5000));
    await comm.allReduce(new Float32Array(3), "sum", { timeoutMs: 1000 });
  },
  mismatch: async (comm) => {
    if (comm.rank === 1) await comm.allReduce(new Float32Array(4));
    else await comm.allReduce(new Float32Array(3));
  },
  // What rank 1 sends the last rank is less than that one expects, which MPI takes without a word.
  blocks: async (comm) => {
    const sendCounts = Array.from(comm.ranks, (_, to) => comm.rank === 1 && to === 2 ? 1 : 2), recvCounts = [2, 2, 2];
    await comm.allToAll(new Float32Array(comm.rank === 1 ? 5 : 6), new Float32Array(6), { sendCounts, recvCounts });
  },
  abort: async (comm) => {
    if (comm.rank === 1) comm.abort("a rank has had enough");
    await comm.barrier();
  },
  cancel: async (comm) => {
    if (comm.rank === 1) return await comm.allReduce(new Float32Array(3), "sum", { signal: AbortSignal.timeout(200) });
    await new Promise((go) => setTimeout(go, 1000));
    await comm.allReduce(new Float32Array(3)); // what rank 1 had sent may be enough for this one
    await comm.barrier();
  },
  message: async (comm) => await comm.recv(new Float32Array(3), (comm.rank + 1) % comm.size, { timeoutMs: 500 }),
  kill: async (comm) => {
    if (comm.rank === 1) Deno.kill(Deno.pid, "SIGKILL");
    await comm.barrier();
  },
  join: async () => {},
};

let comm: Communicator | undefined, start = 0;
try {
  comm = await init({ backend: backend as "mpi", timeoutMs: 60_000 });
  if (fault === "kill") await comm.barrier(); // so that all have started
  start = performance.now();
  await FAULTS[fault!]!(comm);
  console.log(JSON.stringify({ rank: comm.rank, name: "none" }));
} catch (error) {
  const { name, message, hint, missing } = error as Error & { hint?: string; missing?: number[] };
  const ms = performance.now() - start;
  console.log(JSON.stringify({ rank: comm?.rank ?? -1, name, message, hint, missing, ms }));
}
// mpirun kills all ranks once one has ended like this, so each stays until the others have printed.
await new Promise((go) => setTimeout(go, fault === "late" && comm?.rank !== 1 ? 6000 : 1500));
Deno.exit(0);
