/**
 * Pi by Monte Carlo: every rank throws its darts, one reduction counts the hits.
 *
 *     deno task launch --nproc 4 examples/mpi_pi.ts [darts per rank = 2000000]
 */
// deno-lint-ignore-file no-console
import { init } from "../src/runtime/comm/init.ts";

await using comm = await init();
const darts = Number(Deno.args[0] ?? 2_000_000);

// A generator of its own for every rank: xorshift, seeded by the rank.
let state = 0x9e3779b9 ^ Math.imul(comm.rank + 1, 0x85ebca6b);
function random(): number {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return (state >>> 0) / 2 ** 32;
}

const hits = new Float64Array(1);
for (let i = 0; i < darts; i++) if (random() ** 2 + random() ** 2 < 1) hits[0]!++;
await comm.reduce(hits, 0, "sum");

if (comm.rank === 0) {
  console.log(`pi is about ${(4 * hits[0]! / (darts * comm.size)).toFixed(5)} after ${darts * comm.size} darts`);
}
await comm.close();
