// deno-lint-ignore-file no-console -- a rank reports to its test by its output
// What two ranks are told that mean different things, each time in a new group; prints { case: [error's name, message] } as JSON.
// Arguments: the cases; all without.
import type { Communicator } from "../../../src/runtime/comm/communicator.ts";
import { init } from "../../../src/runtime/comm/init.ts";

type Calls = (comm: Communicator) => unknown;
const f32 = (n: number) => new Float32Array(n), later = () => new Promise((resolve) => setTimeout(resolve, 300));

/** By name, what rank 0 calls and what rank 1 does. */
const CASES: Readonly<Record<string, readonly [Calls, Calls]>> = {
  gather: [
    (c) => c.gather(f32(1), f32(3), 0, { counts: [1, 2] }),
    (c) => c.gather(f32(1), null, 0, { counts: [2, 1] }),
  ],
  scatter: [
    (c) => c.scatter(f32(3), f32(1), 0, { counts: [1, 2] }),
    (c) => c.scatter(null, f32(1), 0, { counts: [2, 1] }),
  ],
  allGather: [
    (c) => c.allGather(f32(1), f32(3), { counts: [1, 2] }),
    (c) => c.allGather(f32(1), f32(3), { counts: [2, 1] }),
  ],
  reduceScatter: [
    (c) => c.reduceScatter(f32(3), f32(1), "sum", { counts: [1, 2] }),
    (c) => c.reduceScatter(f32(3), f32(1), "sum", { counts: [2, 1] }),
  ],
  equalCounts: [(c) => c.allGather(f32(2), f32(4), { counts: [2, 2] }), (c) => c.allGather(f32(2), f32(4))],
  allToAll: [
    (c) => c.allToAll(f32(3), f32(3), { sendCounts: [1, 2], recvCounts: [1, 2] }),
    (c) => c.allToAll(f32(3), f32(3), { sendCounts: [1, 2], recvCounts: [1, 2] }),
  ],
  scan: [(c) => c.scan(f32(1)), (c) => c.scan(f32(1), "sum", { exclusive: true })],
  values: [(c) => c.objects.allGather(1), (c) => c.allGather(f32(1), f32(2))],
  split: [(c) => c.split(0), (c) => c.objects.allGather(1)],
  splitByHost: [(c) => c.split(0), (c) => c.splitByHost()],
  mesh: [(c) => c.mesh({ dp: 2, tp: 1 }), (c) => c.mesh({ dp: 1, tp: 2 })],
  axes: [(c) => c.mesh({ dp: 2 }), (c) => c.mesh({ tp: 2 }, { combine: [] })],
  aborted: [(c) => c.abort("the disk is full"), async (c) => {
    await later();
    await c.allReduce(f32(1));
  }],
  cancelled: [
    (c) => c.allReduce(f32(1), "sum", { signal: AbortSignal.abort(new Error("enough")) }),
    (c) => c.allReduce(f32(1)),
  ],
  gaveUp: [(c) => c.barrier({ timeoutMs: 100 }), async (c) => {
    await later();
    await c.barrier();
  }],
};

await using comm = await init({ timeoutMs: 10_000 });
const told: Record<string, string[]> = {};
for (const [name, calls] of Object.entries(CASES)) {
  if (Deno.args.length > 0 && !Deno.args.includes(name)) continue;
  const group = (await comm.split(0, 0, { name }))!;
  try {
    await calls[comm.rank]!(group);
    told[name] = [];
  } catch (error) {
    const { name: kind, message, cause } = error as Error;
    told[name] = [kind, message, ...cause instanceof Error ? [cause.message] : []];
  }
  await comm.barrier();
  await group[Symbol.asyncDispose]();
}
await comm.close();
console.log(JSON.stringify(told));
