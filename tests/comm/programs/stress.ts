// deno-lint-ignore-file no-console -- a rank reports to its test by its output
// Many small collectives, which hang if a wake-up is lost. Arguments: barriers, all-reduces, and how many of them asynchronous.
import assert from "node:assert/strict";
import { init } from "../../../src/runtime/comm/init.ts";

const [barriers, reduces, awaited] = Deno.args.map(Number) as [number, number, number];
await using comm = await init({ timeoutMs: 60_000 });
const start = performance.now();
for (let i = 0; i < barriers; i++) comm.barrierSync();
const x = new Int32Array(1);
for (let i = 0; i < reduces; i++) {
  x[0] = comm.rank + i;
  comm.allReduce(x).waitSync();
  assert.equal(x[0], comm.size * (comm.size - 1) / 2 + comm.size * i);
}
let ticks = 0;
const timer = setInterval(() => ticks++, 1);
for (let i = 0; i < awaited; i++) {
  x[0] = comm.rank + i;
  await comm.allReduce(x);
  assert.equal(x[0], comm.size * (comm.size - 1) / 2 + comm.size * i);
  // Wander, so that ranks arrive in every order, and fall asleep at every place.
  if ((i * 7 + comm.rank * 13) % 97 === 0) await new Promise((resolve) => setTimeout(resolve, 3));
}
clearInterval(timer);
await comm.close();
console.log(JSON.stringify({ ms: performance.now() - start, ticks }));
