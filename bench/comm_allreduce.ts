/**
 * All-reduce of f32 sums, 8 B to 64 MB: ours on symmetric memory, on plain arrays and blocking on a few numbers, against Open MPI in C, interleaved.
 *
 *     deno run -A bench/comm_allreduce.ts [ranks = 2] [rounds = 5]
 *
 * Prints medians over rounds, in microseconds per all-reduce, as the slowest rank saw it. Open MPI is left out, with the
 * reason, where mpicc or mpirun is missing.
 */
// deno-lint-ignore-file no-console
import { symmetricView } from "../src/runtime/comm/buffers.ts";
import type { Communicator } from "../src/runtime/comm/communicator.ts";
import { init } from "../src/runtime/comm/init.ts";

const SIZES = [8, 256, 4096, 16384, 65536, 262144, 1 << 20, 4 << 20, 16 << 20, 64 << 20]; // bytes
/** Batches of repetitions, of which the median counts: a busy machine takes the cores away now and then. */
const BATCHES = 5;

/** Repetitions of `bytes` that take some milliseconds. */
function repetitions(bytes: number): number {
  return Math.max(3, Math.min(4000, Math.floor(16e6 / (bytes + 4000))));
}

/** One rank: rank 0 prints a line of JSON, { kind: [µs per size] }. */
async function measure(): Promise<void> {
  await using comm = await init();
  const result: Record<string, number[]> = { "ours, symmetric": [], "ours, plain": [] };
  for (const bytes of SIZES) {
    const mark = comm.arena.mark();
    const symmetric = symmetricView(comm.arena.alloc(bytes), "f32"), plain = new Float32Array(bytes / 4);
    result["ours, symmetric"]!.push(time(comm, bytes, () => comm.allReduceSync(symmetric)));
    result["ours, plain"]!.push(time(comm, bytes, () => comm.allReduceSync(plain)));
    comm.arena.reset(mark);
  }
  if (comm.rank === 0) console.log(JSON.stringify(result));
  await comm.close();
}

function time(comm: Communicator, bytes: number, run: () => void): number {
  const n = repetitions(bytes);
  for (let i = 0; i < n; i++) run();
  const batches = [];
  for (let batch = 0; batch < BATCHES; batch++) {
    comm.barrierSync();
    const start = performance.now();
    for (let i = 0; i < n; i++) run();
    batches.push((performance.now() - start) * 1000 / n);
  }
  const slowest = Float64Array.of(median(batches));
  comm.allReduceSync(slowest, "max");
  return slowest[0]!;
}

const C_PROGRAM = `
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
static int compare(const void *a, const void *b) { double d = *(double *)a - *(double *)b; return (d > 0) - (d < 0); }
int main(int argc, char **argv) {
  MPI_Init(&argc, &argv);
  int rank; MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  for (int k = 1; k < argc; k += 2) {
    long bytes = atol(argv[k]); int n = atoi(argv[k + 1]), count = (int)(bytes / 4);
    float *x = calloc(count, 4);
    double t[BATCHES];
    for (int b = -1; b < BATCHES; b++) {
      MPI_Barrier(MPI_COMM_WORLD);
      double start = MPI_Wtime();
      for (int i = 0; i < n; i++) MPI_Allreduce(MPI_IN_PLACE, x, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
      if (b >= 0) t[b] = (MPI_Wtime() - start) * 1e6 / n;
    }
    qsort(t, BATCHES, sizeof *t, compare);
    double slowest; MPI_Allreduce(t + BATCHES / 2, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    if (rank == 0) printf("%s%.3f", k > 1 ? "," : "[", slowest);
    free(x);
  }
  if (rank == 0) printf("]\\n");
  MPI_Finalize();
  return 0;
}
`;

/** Builds the peer; undefined, with the reason printed, if that is not possible. */
async function buildPeer(directory: string): Promise<string | undefined> {
  await Deno.writeTextFile(`${directory}/peer.c`, C_PROGRAM);
  try {
    const { success, stderr } = await new Deno.Command("mpicc", {
      args: ["-O3", `-DBATCHES=${BATCHES}`, "-o", `${directory}/peer`, `${directory}/peer.c`],
    }).output();
    if (success) return `${directory}/peer`;
    console.log(`without Open MPI: ${new TextDecoder().decode(stderr).split("\n")[0]}`);
  } catch (error) {
    console.log(`without Open MPI: ${error instanceof Error ? error.message : error}`);
  }
  return undefined;
}

async function compare(ranks: number, rounds: number): Promise<void> {
  const directory = await Deno.makeTempDir();
  const all: Record<string, number[][]> = {};
  try {
    const peer = await buildPeer(directory);
    for (let round = 0; round < rounds; round++) {
      for (const [kind, times] of Object.entries(await ours(ranks))) (all[kind] ??= []).push(times);
      if (peer !== undefined) (all["Open MPI, C"] ??= []).push(await openMpi(peer, ranks));
    }
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
  const kinds = Object.keys(all);
  console.log(`${ranks} ranks, ${navigator.hardwareConcurrency} cores, medians of ${rounds} rounds, µs`);
  console.log(`| bytes | ${kinds.join(" | ")} |\n| --- |${" --- |".repeat(kinds.length)}`);
  SIZES.forEach((bytes, i) =>
    console.log(
      `| ${bytes} | ${kinds.map((kind) => median(all[kind]!.map((t) => t[i]!)).toPrecision(3)).join(" | ")} |`,
    )
  );
}

async function ours(ranks: number): Promise<Record<string, number[]>> {
  const runId = crypto.randomUUID().slice(0, 8);
  const outputs = await Promise.all(Array.from({ length: ranks }, async (_, rank) => {
    const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", import.meta.filename!],
      env: { SHARDWISE_RANK: `${rank}`, SHARDWISE_WORLD_SIZE: `${ranks}`, SHARDWISE_RUN_ID: runId },
    }).output();
    if (!success) throw new Error(new TextDecoder().decode(stderr));
    return new TextDecoder().decode(stdout);
  }));
  return JSON.parse(outputs[0]!);
}

async function openMpi(peer: string, ranks: number): Promise<number[]> {
  const { success, stdout, stderr } = await new Deno.Command("mpirun", {
    args: [
      "-n",
      `${ranks}`,
      "--oversubscribe",
      peer,
      ...SIZES.flatMap((bytes) => [`${bytes}`, `${repetitions(bytes)}`]),
    ],
    env: { OMPI_ALLOW_RUN_AS_ROOT: "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1" },
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  return JSON.parse(new TextDecoder().decode(stdout));
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!;
}

if (Deno.env.get("SHARDWISE_RANK") === undefined) await compare(Number(Deno.args[0] ?? 2), Number(Deno.args[1] ?? 5));
else await measure();
