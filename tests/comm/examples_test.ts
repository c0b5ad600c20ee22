/** The examples of an MPI course run, and say what they should. */
import assert from "node:assert/strict";
import { runRanks } from "../support/ranks.ts";

const EXPECTED: readonly [name: string, ranks: number, args: string[], output: RegExp][] = [
  ["mpi_pi", 3, ["100000"], /^pi is about 3\.1[345]\d+ after 300000 darts\n$/],
  ["mpi_ping_pong", 2, [], /1048576 bytes: .*\nthe token went around 2 ranks and collected 1\n$/],
  ["mpi_ping_pong", 4, [], /the token went around 4 ranks and collected 6\n$/],
  ["mpi_sort", 3, ["5000"], /^sorted 15000 elements; ranks hold \d+, \d+, \d+\n$/],
  ["mpi_summa", 4, ["16"], /^C is 32 x 32 on a 2 x 2 grid; its trace is -?\d+\n$/],
  ["mpi_summa", 1, ["16"], /^C is 16 x 16 on a 1 x 1 grid/],
];

for (const [name, ranks, args, output] of EXPECTED) {
  Deno.test(`examples/${name}.ts runs on ${ranks} ranks`, async () => {
    const results = await runRanks(ranks, new URL(`../../examples/${name}.ts`, import.meta.url), { args });
    assert.match(results[0]!.stdout, output);
  });
}
