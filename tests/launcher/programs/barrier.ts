// deno-lint-ignore-file no-console -- a user's program
/** Ranks that meet at the store: `barrier.ts NAME [MODE]`. MODE `absent`: rank 1 never comes; `left`: it ends normally instead. */
import { detectLaunchEnv } from "../../../src/core/launch_env.ts";
import { connectStore } from "../../../src/runtime/comm/store.ts";

const [name = "job", mode] = Deno.args;
const me = detectLaunchEnv(Deno.env.toObject());
using store = await connectStore({ addr: me.masterAddr, port: me.masterPort, token: me.storeToken, rank: me.rank });
if (me.rank === 1 && mode === "absent") await new Promise((done) => setTimeout(done, 60_000));
if (me.rank !== 1 || mode !== "left") {
  await store.add("members", 1);
  await store.barrier(name, { rank: me.rank, worldSize: me.worldSize, timeoutMs: mode === "absent" ? 500 : 20_000 });
  const members = await store.add("members", 0);
  console.log(`rank ${me.rank} is past the barrier of ${name} with ${members}`);
}
