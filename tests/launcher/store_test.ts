/** The store under friends and strangers. */
import assert from "node:assert/strict";
import { encodeFrame, field, OP, StoreError, text } from "../../src/core/store_protocol.ts";
import { StoreClient } from "../../src/core/store_client.ts";
import { connectStore } from "../../src/runtime/comm/store.ts";
import { StoreServer } from "../../launcher/store_server.ts";
import { patience, program, run } from "./harness.ts";

const HOST = "127.0.0.1", TOKEN = "secret";
const bytes = (s: string) => field(s);

function serve(events = {}): StoreServer {
  const server = new StoreServer({ hostname: HOST, port: 0, events });
  server.allow(TOKEN);
  return server;
}

const connect = (server: StoreServer, rank?: number, token = TOKEN) =>
  connectStore({ addr: HOST, port: server.port, token, rank, timeoutMs: 2000 });

Deno.test("set, get, add, compareSet, delete, list and prefix do what their names say", async () => {
  using server = serve();
  using store = await connect(server);
  await store.set("a/x", bytes("1"));
  assert.equal(text(await store.get("a/x")), "1");
  assert.equal(await store.add("n", 5), 5);
  assert.equal(await store.add("n", -7), -2);
  assert.equal(text(await store.compareSet("c", null, bytes("first"))), "first");
  assert.equal(text(await store.compareSet("c", null, bytes("second"))), "first");
  assert.equal(text(await store.compareSet("c", bytes("wrong"), bytes("third"))), "first");
  assert.equal(text(await store.compareSet("c", bytes("first"), bytes("third"))), "third");
  const a = store.prefix("a/").prefix("b/");
  await a.set("y", bytes("2"));
  assert.deepEqual(await store.list("a/"), ["a/b/y", "a/x"]);
  assert.deepEqual(await a.list(""), ["y"]);
  assert.equal(await a.delete("y"), true);
  assert.equal(await a.delete("y"), false);
  const big = new Uint8Array(3_000_000).map((_, i) => i * 7);
  await store.set("big", big);
  assert.deepEqual(await store.get("big"), big);
});

Deno.test("get and wait wait for other clients, and name what is missing when time is up", async () => {
  using server = serve();
  using a = await connect(server);
  using b = await connect(server);
  const waiting = a.get("later");
  const all = a.wait(["later", "also"]);
  await b.set("later", bytes("now"));
  assert.equal(text(await waiting), "now");
  await b.set("also", bytes(""));
  await all;
  await assert.rejects(a.get("never", { timeoutMs: 30 }), /"never".*within 30 ms/);
  await assert.rejects(a.wait(["later", "k1", "k2"], { timeoutMs: 30 }), /"k1", "k2".*set them within 30 ms/);
});

Deno.test("adding to what is no number is refused and changes nothing", async () => {
  using server = serve();
  using store = await connect(server);
  await store.set("word", bytes("x"));
  await assert.rejects(store.add("word", 1), StoreError);
  assert.equal(text(await store.get("word")), "x");
});

Deno.test("a client that comes late hears who has left; the next attempt forgets it", async () => {
  using server = serve();
  server.pushLeft(1);
  using late = await connect(server, 0);
  await assert.rejects(late.barrier("late", { rank: 0, worldSize: 2 }), /rank 1 ended normally/);
  server.beginAttempt();
  using next = await connect(server, 2);
  await next.ping();
  assert.deepEqual([...next.left], []);
});

Deno.test("a wrong token is refused at once, without its owner hanging", async () => {
  using server = serve();
  await assert.rejects(connect(server, 0, "guess"), /token is not that of this job/);
  await assert.rejects(connect(server, 0, ""), /token is not that of this job/);
});

Deno.test("a revoked token ends the connections that showed it", async () => {
  using server = serve();
  using store = await connect(server);
  server.revoke(TOKEN);
  await store.ended;
  await assert.rejects(store.ping(), StoreError);
});

Deno.test("garbage, floods and silence from strangers do not disturb the others", async () => {
  using server = serve();
  using store = await connect(server);
  const strangers = await Promise.all(
    Array.from({ length: 40 }, () => Deno.connect({ hostname: HOST, port: server.port })),
  );
  await Promise.all(strangers.map(async (conn, i) => {
    try {
      if (i % 4 === 0) await conn.write(crypto.getRandomValues(new Uint8Array(500)));
      if (i % 4 === 1) await conn.write(new TextEncoder().encode("GET / HTTP/1.1\r\n\r\n"));
      if (i % 4 === 2) { for (let n = 0; n < 20; n++) await conn.write(new Uint8Array(100_000).fill(0x7f)); }
      // The rest say nothing.
    } catch {
      // Cut off, as they should be.
    }
  }));
  const begun = performance.now();
  await store.set("k", bytes("v"));
  assert.equal(text(await store.get("k")), "v");
  assert.ok(performance.now() - begun < patience(1000));
  for (const conn of strangers) conn.close();
});

Deno.test("a stranger's large first frame is refused before it arrives", async () => {
  using server = serve();
  using conn = await Deno.connect({ hostname: HOST, port: server.port });
  await conn.write(encodeFrame(OP.hello, 1, [new Uint8Array(10_000)]).subarray(0, 100));
  const left = await conn.read(new Uint8Array(10)).catch(() => null);
  assert.equal(left, null);
});

Deno.test("a member that sends garbage after its token loses its own connection only", async () => {
  using server = serve();
  using good = await connect(server);
  using bad = await Deno.connect({ hostname: HOST, port: server.port });
  await bad.write(encodeFrame(OP.hello, 1, [field(TOKEN), field("7")]));
  await bad.read(new Uint8Array(64));
  await bad.write(new Uint8Array([9, 0, 0, 0, 200, 1, 1, 1, 1, 1, 1, 1, 1]));
  assert.equal(await bad.read(new Uint8Array(64)).catch(() => null), null);
  await good.ping();
});

Deno.test("a barrier names the ranks that did not come, or left normally", async () => {
  using server = serve();
  using a = await connect(server, 0);
  using b = await connect(server, 1);
  await Promise.all([a.barrier("both", { rank: 0, worldSize: 2 }), b.barrier("both", { rank: 1, worldSize: 2 })]);
  await assert.rejects(a.barrier("late", { rank: 0, worldSize: 2, timeoutMs: 30 }), /"barrier\/late\/1"/);
  const waiting = a.barrier("left", { rank: 0, worldSize: 2 });
  server.pushLeft(1);
  await assert.rejects(waiting, /rank 1 ended normally without calling it/);
  await assert.rejects(a.barrier("left again", { rank: 0, worldSize: 2 }), /rank 1 ended normally/);
});

Deno.test("an abort reaches every client, also one that connects later", async () => {
  const heard: string[] = [];
  using server = serve({ onAbort: (reason: string) => heard.push(reason) });
  using a = await connect(server);
  using b = await connect(server);
  await a.abort("enough");
  assert.equal(await b.aborted, "enough");
  using late = await connect(server);
  assert.equal(await late.aborted, "enough");
  assert.deepEqual(heard, ["enough"]);
});

Deno.test("a launcher that falls silent is cut off and reported, one that pings is not", async () => {
  const gone: string[] = [];
  using server = serve({ onGone: (who: string) => gone.push(who) });
  const open = async (who: string) => {
    const client = new StoreClient(await Deno.connect({ hostname: HOST, port: server.port }));
    await client.hello(TOKEN, who);
    return client;
  };
  using silent = await open("node:1");
  using lively = await open("node:2");
  using rank = await open("3");
  await new Promise((done) => setTimeout(done, 200));
  await lively.ping();
  server.dropSilent("node:", 150);
  await silent.ended;
  await lively.ping();
  await rank.ping();
  assert.deepEqual(gone, ["node:1"]);
});

Deno.test("requests fail when the server goes, and a store that nobody hosts is named", async () => {
  const server = serve();
  const port = server.port;
  using store = await connect(server);
  const waiting = store.get("never");
  server[Symbol.dispose]();
  await assert.rejects(waiting, StoreError);
  await assert.rejects(
    connectStore({ addr: HOST, port, token: TOKEN, timeoutMs: 100 }),
    new RegExp(`store at ${HOST}:${port}`),
  );
});

Deno.test("ranks pass a barrier at the launcher's store; a missing rank is named; one that left fails the others within a second", async () => {
  const ok = await run(["--nproc", "4", program("barrier.ts"), "all"]);
  assert.equal(ok.code, 0, ok.stderr);
  assert.equal(ok.stdout.match(/past the barrier of all with 4/g)?.length, 4);
  const absent = await run(["--nproc", "3", program("barrier.ts"), "x", "absent"]);
  assert.equal(absent.code, 1);
  assert.match(absent.stderr, /cause .*"barrier\/x\/1" in the store: nobody set it within 500 ms/);
  const left = await run(["--nproc", "3", program("barrier.ts"), "x", "left"]);
  assert.equal(left.code, 1);
  assert.match(left.stderr, /cause .*rank 1 ended normally without calling it/);
  assert.ok(left.ms < patience(2500));
});
