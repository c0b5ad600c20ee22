/**
 * Whether an all-reduce in the background hides behind JavaScript that computes: computing only, all-reducing only, both, by
 * turns in one run.
 *
 *     deno task launch --nproc 2 bench/comm_overlap.ts [MB = 16] [rounds = 7]
 *
 * Prints medians in milliseconds, as the slowest rank saw them, and how much of the shorter part was hidden: 100 % where there are
 * two cores a rank, next to nothing where each rank has one, since all-reducing on one host is work for the processor too.
 */
// deno-lint-ignore-file no-console
import { init } from "../src/runtime/comm/init.ts";

await using comm = await init();
const megabytes = Number(Deno.args[0] ?? 16), rounds = Number(Deno.args[1] ?? 7);
const gradient = new Float32Array(megabytes * 2 ** 18);
const start = () => comm.allReduce(gradient, "avg", { background: true });

for (let i = 0; i < 3; i++) await start();
const alone = await time(() => start());
compute(50); // until it is compiled
const loops = Math.max(1, Math.round(20 * alone / (await time(() => void compute(20)))));
const kinds = {
  compute: () => void compute(loops),
  reduce: () => start(),
  both: async () => {
    const work = start();
    compute(loops);
    await work;
  },
};
const times: Record<keyof typeof kinds, number[]> = { compute: [], reduce: [], both: [] };
for (let round = 0; round < rounds; round++) {
  for (const kind of Object.keys(kinds) as (keyof typeof kinds)[]) times[kind].push(await time(kinds[kind]));
}
if (comm.rank === 0) {
  const [c, r, b] = [times.compute, times.reduce, times.both].map(median) as [number, number, number];
  console.log(
    `${comm.size} ranks, ${navigator.hardwareConcurrency} cores, all-reduce of ${megabytes} MB in the background`,
  );
  console.log("| compute, ms | all-reduce, ms | both, ms | hidden |\n| --- | --- | --- | --- |");
  const hidden = (c + r - b) / Math.min(c, r);
  console.log(`| ${c.toFixed(1)} | ${r.toFixed(1)} | ${b.toFixed(1)} | ${(100 * hidden).toFixed(0)} % |`);
}
await comm.close();

/** Milliseconds that `run` takes at the slowest rank. */
async function time(run: () => unknown): Promise<number> {
  comm.barrierSync();
  const begun = performance.now();
  await run();
  const slowest = Float64Array.of(performance.now() - begun);
  comm.allReduceSync(slowest, "max");
  return slowest[0]!;
}

/** Some arithmetic on a few numbers, which stays in registers and the first cache. */
function compute(loops: number): number {
  let x = 1;
  for (let i = 0; i < loops * 200_000; i++) x = x * 1.0000001 + 1e-9;
  return x;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!;
}
