// deno-lint-ignore-file no-console -- a rank reports to its test by its output
// What one rank does wrong while the others wait. Arguments: the fault, and the collective in which the others wait.
import type { Communicator } from "../../../src/runtime/comm/communicator.ts";
import { CommunicatorError } from "../../../src/runtime/comm/errors.ts";
import { init } from "../../../src/runtime/comm/init.ts";

const [fault, verb = "allReduce"] = Deno.args;
const comm = await init({ timeoutMs: fault === "late" || fault === "hangs" ? 400 : 20_000 });
await comm.barrier();
const culprit = comm.size - 1;
if (comm.rank === culprit) {
  if (fault === "killed") Deno.kill(Deno.pid, "SIGKILL");
  if (fault === "exits") Deno.exit(0);
  if (fault === "leaves") await comm[Symbol.asyncDispose]();
  if (fault === "hangs") { for (const end = performance.now() + 3000; performance.now() < end;); }
  if (fault === "hangs") Deno.exit(0);
  if (fault === "aborts") comm.abort("the disk is full");
  if (fault === "late") await new Promise((resolve) => setTimeout(resolve, 1500));
  if (fault === "leaves" || fault === "aborts") Deno.exit(0);
}
const start = performance.now();
try {
  if (fault === "inside") {
    // The culprit has begun, and perhaps done its part; then the others find out in the next barrier.
    const done = call(comm, verb);
    if (comm.rank === culprit) Deno.kill(Deno.pid, "SIGKILL");
    await done;
    await comm.barrier();
  } else await call(comm, fault === "mismatch" && comm.rank === culprit ? "other" : verb);
  console.log("done");
} catch (error) {
  if (!(error instanceof CommunicatorError)) throw error;
  const { name, message, exitCode } = error;
  const extra = { rank: (error as { rank?: number }).rank, missing: (error as { missing?: number[] }).missing };
  console.log(JSON.stringify({ name, message, ms: performance.now() - start, ...extra }));
  Deno.exit(exitCode);
}

async function call(comm: Communicator, verb: string): Promise<void> {
  const n = 100_000, data = new Float32Array(n), all = new Float32Array(n * comm.size);
  switch (verb) {
    case "barrier":
      return await comm.barrier();
    case "barrierSync":
      return comm.barrierSync();
    case "broadcast":
      return await comm.broadcast(data, comm.size - 1);
    case "allReduce":
      return await comm.allReduce(data);
    case "reduce":
      return await comm.reduce(data, 0);
    case "allGather":
      return await comm.allGather(data, all);
    case "reduceScatter":
      return await comm.reduceScatter(all, data);
    case "gather":
      return await comm.gather(data, all, 0);
    case "scatter":
      return await comm.scatter(all, data, 0);
    case "allToAll":
      return await comm.allToAll(all, all.slice());
    case "scan":
      return await comm.scan(data);
    case "objects":
      return void await comm.objects.allGather({ a: 1 });
    case "split":
      return void await comm.split(0);
    case "allReduceSync":
      return comm.allReduceSync(new Float32Array(8));
    case "allReduceSymmetric":
      return await comm.allReduce(comm.allocate([n], "f32"));
    case "exclusiveScan":
      return await comm.scan(data, "sum", { exclusive: true });
    case "subgroup":
      return void await comm.subgroup([...comm.ranks]);
    case "mesh":
      return void await comm.mesh({ dp: 1, tp: -1 });
    case "group":
      return await comm.group(() => {
        comm.allReduce(data);
        comm.send(data, comm.size - 1 - comm.rank);
        comm.recv(all, comm.size - 1 - comm.rank);
      });
    case "sendRecv":
      return void await comm.sendRecv({ send: data, dest: comm.size - 1 - comm.rank }, {
        recv: all,
        source: comm.size - 1 - comm.rank,
      });
    case "objectMessages":
      if (comm.rank > 0) return await comm.objects.send("x".repeat(100_000), 0);
      return void await comm.objects.recv(comm.size - 1);
    case "recv":
      return void await comm.recv(data, comm.size - 1);
    case "send":
      return await comm.send(data, comm.size - 1);
    case "other":
      return await comm.allReduce(new Int32Array(7), "max");
    default:
      throw new Error(`Unknown verb ${verb}`);
  }
}
