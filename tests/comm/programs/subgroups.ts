// deno-lint-ignore-file no-console -- a rank reports to its test by its output
// Makes and closes groups by the thousand; prints what the process holds after a tenth of them and at the end.
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { init } from "../../../src/runtime/comm/init.ts";

const count = Number(Deno.args[0]);
const comm = await init({ timeoutMs: 60_000 });
const start = performance.now(), x = new Float32Array(1);
let early = holds();
for (let i = 0; i < count; i++) {
  const group = (await comm.split(0))!;
  // Of some the staging memory is made too, of some a symmetric tensor.
  if (i % 5 === 0) group.allReduceSync(x);
  if (i % 10 === 0) group.allocate([1000], "f32");
  await group.close();
  if (i === count / 10) early = holds();
}
const end = holds();
console.log(
  JSON.stringify({ early, end, ms: Math.round(performance.now() - start), window: comm.arena.partBytes }),
);
await comm.close();

function holds() {
  // What is in use, not what waits for being collected: V8 lets tens of megabytes of garbage lie, and libc keeps what was freed.
  setFlagsFromString("--expose-gc");
  runInNewContext("gc")();
  const { heapUsed, external, rss } = Deno.memoryUsage();
  const maps = Deno.readTextFileSync("/proc/self/maps").split("\n").length;
  return {
    files: [...Deno.readDirSync("/proc/self/fd")].map(({ name }) => target(`/proc/self/fd/${name}`)),
    maps,
    used: (heapUsed + external) / 2 ** 20,
    megabytes: rss / 2 ** 20,
  };
}

/** What an open file is, or "" where it was closed meanwhile. */
function target(path: string): string {
  try {
    return Deno.readLinkSync(path);
  } catch {
    return "";
  }
}
