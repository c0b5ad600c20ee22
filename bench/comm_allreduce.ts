/**
 * All-reduce of f32 sums, 8 B to 64 MB: ours on plain arrays and on symmetric memory, Open MPI from C and through our FFI, and gloo
 * through torch; by turns, in one run.
 *
 *     deno run -A bench/comm_allreduce.ts [--ranks 2,4] [--rounds 5] [--largest BYTES] [--python FILE] [--bind] [--only NAME]...
 *
 * Prints medians over rounds, in microseconds per all-reduce, as the slowest rank saw it, and the ratio of ours to Open MPI in C.
 * A peer whose tools are missing is left out, with the reason: mpicc and mpirun for Open MPI, libmpi for the FFI, a Python with torch
 * (`--python`) for gloo. `--bind` gives every rank of every peer a core of its own (taskset; mpirun --bind-to core), else nobody is
 * bound, Open MPI neither; on a busy machine two ranks that land on one core tell nothing.
 */
// deno-lint-ignore-file no-console
import { parseArgs } from "node:util";
import type { Communicator } from "../src/runtime/comm/communicator.ts";
import { init } from "../src/runtime/comm/init.ts";

const SIZES = [8, 256, 4096, 16384, 65536, 262144, 1 << 20, 4 << 20, 16 << 20, 64 << 20]; // bytes
/** Batches of repetitions, of which the median counts: a busy machine takes the cores away now and then. */
const BATCHES = 5;
const ALONE = { OMPI_ALLOW_RUN_AS_ROOT: "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1" };

/** Microseconds by size. */
type Times = number[];
/** One peer of the comparison: runs its ranks once; several columns where it has several ways. */
type Peer = (ranks: number, sizes: readonly number[]) => Promise<Record<string, Times>>;

/** Repetitions of `bytes` that take some milliseconds. */
function repetitions(bytes: number): number {
  return Math.max(3, Math.min(20_000, Math.floor(16e6 / (bytes + 800))));
}

/** One rank of ours: rank 0 prints a line of JSON, { column: [µs per size] }. */
async function measure(sizes: readonly number[]): Promise<void> {
  await using comm = await init();
  const name = comm.backend === "shm" ? "ours" : `ours over ${comm.backend}`;
  const result: Record<string, Times> = { [`${name}, plain`]: [] };
  // V8 compiles what runs often, on threads of its own: on as many cores as ranks that would be measured first.
  const warm = [new Float32Array(2), ...(comm.backend === "shm" ? [comm.allocate([2], "f32")] : [])];
  for (const buffer of warm) for (let i = 0; i < 100_000; i++) comm.allReduceSync(buffer);
  for (const buffer of warm) time(comm, 8, () => comm.allReduceSync(buffer));
  if (comm.backend === "shm") result[`${name}, symmetric`] = [];
  for (const bytes of sizes) {
    const plain = new Float32Array(bytes / 4);
    result[`${name}, plain`]!.push(time(comm, bytes, () => comm.allReduceSync(plain)));
    if (comm.backend !== "shm") continue;
    const mark = comm.arena.mark(), symmetric = comm.allocate([bytes / 4], "f32");
    result[`${name}, symmetric`]!.push(time(comm, bytes, () => comm.allReduceSync(symmetric)));
    comm.arena.reset(mark);
  }
  if (comm.rank === 0) console.log(JSON.stringify(result));
  await comm.close();
}

function time(comm: Communicator, bytes: number, run: () => void): number {
  const n = repetitions(bytes);
  for (let i = 0; i < 3 * n; i++) run(); // until V8 has compiled it for good
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

const TORCH_PROGRAM = `
import os, sys, time, json, torch, torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, times = dist.get_rank(), []
for size, n in zip(sys.argv[1::2], sys.argv[2::2]):
    x, n = torch.zeros(int(size) // 4), max(3, int(n) // 100)
    def batch():
        dist.barrier()
        start = time.perf_counter()
        for _ in range(n):
            dist.all_reduce(x)
        return (time.perf_counter() - start) * 1e6 / n
    batch()
    slowest = torch.tensor([sorted(batch() for _ in range(BATCHES))[BATCHES // 2]], dtype=torch.float64)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    times.append(slowest.item())
if rank == 0:
    print(json.dumps(times))
dist.destroy_process_group()
`;

const ours: Peer = async (ranks, sizes) => {
  const runId = crypto.randomUUID().slice(0, 8);
  const outputs = await Promise.all(
    Array.from(
      { length: ranks },
      (_, rank) =>
        output(...bound(rank, [Deno.execPath(), "run", "-A", import.meta.filename!, "--sizes", sizes.join()]), {
          ...{
            SHARDWISE_RANK: `${rank}`,
            SHARDWISE_WORLD_SIZE: `${ranks}`,
            SHARDWISE_RUN_ID: runId,
            SHARDWISE_BACKEND: "shm",
          },
        }),
    ),
  );
  return JSON.parse(outputs[0]!);
};

const ffi: Peer = async (ranks, sizes) => {
  const args = ["run", "-A", import.meta.filename!, "--sizes", sizes.join()];
  return JSON.parse(await mpirun(ranks, [Deno.execPath(), ...args], { SHARDWISE_BACKEND: "mpi" }));
};

/** Open MPI from C; builds it in `directory`. @throws {Error} If that is not possible. */
async function makeC(directory: string): Promise<Peer> {
  await Deno.writeTextFile(`${directory}/peer.c`, C_PROGRAM);
  await output("mpicc", ["-O3", `-DBATCHES=${BATCHES}`, "-o", `${directory}/peer`, `${directory}/peer.c`]);
  return async (ranks, sizes) => ({
    "Open MPI, C": JSON.parse(await mpirun(ranks, [`${directory}/peer`, ...counted(sizes)])),
  });
}

/** gloo through torch. */
async function makeGloo(directory: string, python: string): Promise<Peer> {
  await Deno.writeTextFile(`${directory}/peer.py`, TORCH_PROGRAM.replaceAll("BATCHES", `${BATCHES}`));
  return async (ranks, sizes) => {
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 }), { port } = listener.addr as Deno.NetAddr;
    listener.close();
    const outputs = await Promise.all(
      Array.from(
        { length: ranks },
        (_, rank) =>
          output(...bound(rank, [python, `${directory}/peer.py`, ...counted(sizes)]), {
            ...{ RANK: `${rank}`, WORLD_SIZE: `${ranks}`, MASTER_ADDR: "127.0.0.1", MASTER_PORT: `${port}` },
            ...{ OMP_NUM_THREADS: "1", GLOO_SOCKET_IFNAME: "lo" },
          }),
      ),
    );
    return { "gloo, torch": JSON.parse(outputs[0]!) };
  };
}

/** `size repetitions` for each size. */
function counted(sizes: readonly number[]): string[] {
  return sizes.flatMap((bytes) => [`${bytes}`, `${repetitions(bytes)}`]);
}

function mpirun(ranks: number, command: readonly string[], env: Record<string, string> = {}): Promise<string> {
  const binding = values.bind && ranks <= navigator.hardwareConcurrency ? "core" : "none";
  const args = ["-n", `${ranks}`, "--oversubscribe", "--bind-to", binding, ...command];
  return output("mpirun", args, { ...ALONE, ...env });
}

/** A rank's command line, on the core of its own number if that was asked for. */
function bound(rank: number, command: readonly string[]): [string, string[]] {
  const [program, ...args] = values.bind
    ? ["taskset", "-c", `${rank % navigator.hardwareConcurrency}`, ...command]
    : command;
  return [program!, args];
}

/** What a program prints. @throws {Error} With the first line of its complaint, if it fails or is not there. */
async function output(command: string, args: readonly string[], env: Record<string, string> = {}): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(command, { args: [...args], env }).output();
  const text = new TextDecoder();
  if (success) return text.decode(stdout);
  const complaint = text.decode(stderr).split("\n").find((line) => line.trim() !== "");
  throw new Error(`${command}: ${complaint ?? "it failed and said nothing"}`);
}

async function compare(
  o: { ranks: number; rounds: number; sizes: number[]; python: string | undefined; only: string[] },
) {
  const directory = await Deno.makeTempDir();
  const all: Record<string, Times[]> = {};
  const makers: Record<string, () => Peer | Promise<Peer>> = {
    ours: () => ours,
    c: () => makeC(directory),
    ffi: () => ffi,
    gloo: () => {
      if (o.python === undefined) throw new Error("pass --python with a Python that has torch");
      return makeGloo(directory, o.python);
    },
  };
  try {
    const peers = new Map<string, Peer>();
    for (const [name, make] of Object.entries(makers)) {
      if (o.only.length > 0 && !o.only.includes(name)) continue;
      await leaveOut(name, async () => void peers.set(name, await make()));
    }
    for (let round = 0; round < o.rounds; round++) {
      for (const [name, run] of peers) {
        const there = await leaveOut(name, async () => {
          for (const [column, times] of Object.entries(await run(o.ranks, o.sizes))) (all[column] ??= []).push(times);
        });
        if (!there) peers.delete(name);
      }
    }
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
  print(o, all);
}

/** Whether `run` succeeds; says why not. */
async function leaveOut(name: string, run: () => Promise<void>): Promise<boolean> {
  try {
    await run();
    return true;
  } catch (error) {
    console.log(`without ${name}: ${error instanceof Error ? error.message : error}`);
    return false;
  }
}

function print(o: { ranks: number; rounds: number; sizes: number[] }, all: Record<string, Times[]>): void {
  const columns = Object.keys(all), peer = "Open MPI, C";
  const at = (column: string, i: number) => median(all[column]!.map((times) => times[i]!));
  const compared = all[peer] === undefined ? [] : columns.filter((c) => c.startsWith("ours"));
  console.log(`${o.ranks} ranks, ${navigator.hardwareConcurrency} cores, medians of ${o.rounds} rounds, µs`);
  const head = ["bytes", ...columns, ...compared.map((c) => `${c} / C`)];
  console.log(`| ${head.join(" | ")} |\n|${" --- |".repeat(head.length)}`);
  o.sizes.forEach((bytes, i) => {
    const ratios = compared.map((c) => (at(c, i) / at(peer, i)).toFixed(2));
    console.log(`| ${[bytes, ...columns.map((c) => at(c, i).toPrecision(3)), ...ratios].join(" | ")} |`);
  });
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!;
}

const { values } = parseArgs({
  args: Deno.args,
  options: {
    ranks: { type: "string", default: "2,4" },
    rounds: { type: "string", default: "5" },
    largest: { type: "string", default: `${SIZES.at(-1)}` },
    python: { type: "string" },
    bind: { type: "boolean", default: false },
    only: { type: "string", multiple: true, default: [] },
    sizes: { type: "string" }, // of a rank
  },
});
if (values.sizes !== undefined) await measure(values.sizes.split(",").map(Number));
else {
  const sizes = SIZES.filter((bytes) => bytes <= Number(values.largest));
  for (const ranks of values.ranks.split(",").map(Number)) {
    await compare({ ranks, rounds: Number(values.rounds), sizes, python: values.python, only: values.only });
  }
}
