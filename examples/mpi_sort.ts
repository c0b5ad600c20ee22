/**
 * A distributed sort by regular sampling: sort locally, agree on splitters, send every element to the rank of its range.
 *
 *     deno task launch --nproc 4 examples/mpi_sort.ts [elements per rank = 100000]
 */
// deno-lint-ignore-file no-console
import { init } from "../src/runtime/comm/init.ts";

await using comm = await init();
const { rank, size } = comm;
const n = Number(Deno.args[0] ?? 100_000);
const mine = Float64Array.from({ length: n }, () => Math.random()).sort();

// Every rank offers `size` evenly spaced elements; of all of them, every size-th is a splitter.
const offered = Float64Array.from({ length: size }, (_, i) => mine[Math.floor((i * n) / size)]!);
const samples = new Float64Array(size * size);
await comm.allGather(offered, samples);
samples.sort();
const splitters = Array.from({ length: size - 1 }, (_, i) => samples[(i + 1) * size]!);

// mine is sorted, so what goes to one rank is one block.
const borders = [0, ...splitters.map((s) => mine.findIndex((v) => v >= s)).map((at) => at < 0 ? n : at), n];
const sendCounts = borders.slice(1).map((end, i) => end - borders[i]!);
const counts = new Int32Array(size);
await comm.allToAll(Int32Array.from(sendCounts), counts);
const recvCounts = [...counts], sorted = new Float64Array(recvCounts.reduce((a, b) => a + b, 0));
await comm.allToAll(mine, sorted, { sendCounts, recvCounts });
sorted.sort();

// Ranges of neighbours must not overlap, and nothing may be lost.
const ends = await comm.objects.allGather({ first: sorted[0], last: sorted.at(-1), count: sorted.length });
const inOrder = ends.every((e, r) =>
  r === 0 || ends[r - 1]!.last === undefined || e.first === undefined || ends[r - 1]!.last! <= e.first
);
const total = ends.reduce((sum, e) => sum + e.count, 0);
if (!inOrder || total !== n * size) {
  throw new Error(`The sort failed: ${total} of ${n * size} elements, in order: ${inOrder}`);
}
if (rank === 0) console.log(`sorted ${total} elements; ranks hold ${ends.map((e) => e.count).join(", ")}`);
await comm.close();
