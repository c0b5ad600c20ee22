/**
 * Matrix multiplication on a 2-D grid of ranks (SUMMA): C = A · B, each rank holding one block of each.
 *
 * In step k the ranks of grid column k broadcast their blocks of A along their rows, those of grid row k their blocks of B
 * along their columns, and every rank adds the product of the two to its block of C.
 *
 *     deno task launch --nproc 4 examples/mpi_summa.ts [block = 128]        (a square number of ranks)
 */
// deno-lint-ignore-file no-console
import { init } from "../src/runtime/comm/init.ts";

await using comm = await init();
const grid = Math.round(Math.sqrt(comm.size)), n = Number(Deno.args[0] ?? 128);
if (grid * grid !== comm.size) throw new Error(`Cannot make a square grid of ${comm.size} ranks: start 1, 4, 9 or 16`);
const mesh = await comm.mesh({ row: grid, column: grid });
const { row, column } = mesh.coordinates as { row: number; column: number };
// Ranks of one grid row differ on the axis `column`, and those of one grid column on the axis `row`.
const along = mesh.axis("column"), down = mesh.axis("row");

// Elements that depend on their place in the whole matrix, so that the result can be checked.
const block = (f: (i: number, j: number) => number) =>
  Float32Array.from({ length: n * n }, (_, e) => f(row * n + Math.floor(e / n), column * n + e % n)); // [n, n]
const a = block((i, j) => ((i * 3 + j) % 7) - 3),
  b = block((i, j) => ((i + j * 5) % 11) - 5),
  c = new Float32Array(n * n);

for (let k = 0; k < grid; k++) {
  const left = column === k ? a.slice() : new Float32Array(n * n),
    right = row === k ? b.slice() : new Float32Array(n * n);
  await along.broadcast(left, k);
  await down.broadcast(right, k);
  for (let i = 0; i < n; i++) {
    for (let l = 0; l < n; l++) {
      const factor = left[i * n + l]!;
      for (let j = 0; j < n; j++) c[i * n + j]! += factor * right[l * n + j]!;
    }
  }
}

// One element of every block, by the definition of the product.
const size = n * grid, i = row * n + 1, j = column * n + 2;
let expected = 0;
for (let l = 0; l < size; l++) expected += (((i * 3 + l) % 7) - 3) * (((l + j * 5) % 11) - 5);
if (Math.abs(c[n + 2]! - expected) > 1e-3) throw new Error(`C[${i}, ${j}] is ${c[n + 2]}, expected ${expected}`);
const trace = new Float64Array(1);
if (row === column) { for (let d = 0; d < n; d++) trace[0]! += c[d * n + d]!; }
await comm.allReduce(trace);
if (comm.rank === 0) console.log(`C is ${size} x ${size} on a ${grid} x ${grid} grid; its trace is ${trace[0]}`);
await mesh.close();
await comm.close();
