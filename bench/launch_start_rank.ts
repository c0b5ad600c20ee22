/** A rank that says when it reached user code, and when it passed a barrier at the launcher's store if there is one. */
const user = Date.now();
const say = (text: string) => Deno.stdout.writeSync(new TextEncoder().encode(text));
if (Deno.env.get("SHARDWISE_STORE_TOKEN") !== undefined) {
  const { detectLaunchEnv } = await import("../src/core/launch_env.ts");
  const { connectStore } = await import("../src/runtime/comm/store.ts");
  const me = detectLaunchEnv(Deno.env.toObject());
  using store = await connectStore({ addr: me.masterAddr, port: me.masterPort, token: me.storeToken, rank: me.rank });
  await store.barrier("start", me);
  say(`user ${user} barrier ${Date.now()}\n`);
} else say(`user ${user}\n`);
