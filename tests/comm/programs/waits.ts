// Rank 1 waits in a barrier until rank 0, which tells its test that it is there, has got a signal.
import { dirname } from "node:path";
import { init } from "../../../src/runtime/comm/init.ts";

const signalled = new Promise<void>((resolve) => Deno.addSignalListener("SIGUSR2", resolve));
const comm = await init({ timeoutMs: 100_000 });
await comm.allReduce(new Float32Array(3));
if (comm.rank === 0) {
  await new Promise((resolve) => setTimeout(resolve, 300)); // until rank 1 has called its barrier
  Deno.writeTextFileSync(`${dirname(Deno.env.get("SHARDWISE_ERROR_FILE")!)}/waiting`, "");
  await signalled;
  await new Promise((resolve) => setTimeout(resolve, 300)); // until both have written
}
await comm.barrier();
await comm.close();
Deno.exit();
