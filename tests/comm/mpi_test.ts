/** The mpi engine under real mpiruns: over shared memory and over TCP, by Open MPI and by MPICH. */
import assert from "node:assert/strict";
import { type MpiName, type MpiResult, mpirun, mpirunOrSkip } from "../support/mpirun.ts";

const CONFORMANCE = new URL("./conformance/program.ts", import.meta.url);
const CASES = new URL("./programs/mpi_cases.ts", import.meta.url);
const MODEL = new URL("./programs/mpi_model.ts", import.meta.url);
const FAULTS = new URL("./programs/mpi_faults.ts", import.meta.url);

interface Run {
  readonly mpi: MpiName;
  readonly how: string;
  readonly ranks: number;
  readonly backend: "mpi" | "shm+mpi";
  /** Sizes, sparseness and dtypes of the conformance run. */
  readonly args: readonly string[];
  readonly flags?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly atLeast: number;
}

const TCP = ["--mca", "btl", "tcp,self"], LESS = "f32,f64,bf16,f8e4m3fn,i8,u32,i64,bool";
const RUNS: readonly Run[] = [
  { mpi: "Open MPI", how: "alone", ranks: 1, backend: "mpi", args: ["0,3", "5"], atLeast: 1500 },
  { mpi: "Open MPI", how: "over shared memory", ranks: 2, backend: "mpi", args: ["1,3,33", "4"], atLeast: 3000 },
  { mpi: "Open MPI", how: "over TCP", ranks: 3, backend: "mpi", args: ["0,33", "7", LESS], flags: TCP, atLeast: 1000 },
  { mpi: "Open MPI", how: "over TCP", ranks: 2, backend: "mpi", args: ["70000", "1"], flags: TCP, atLeast: 30 },
  { mpi: "Open MPI", how: "over shared memory", ranks: 4, backend: "mpi", args: ["17", "7", LESS], atLeast: 400 },
  { mpi: "MPICH", how: "over shared memory", ranks: 2, backend: "mpi", args: ["0,3,70000", "5"], atLeast: 2000 },
  { mpi: "MPICH", how: "over shared memory", ranks: 3, backend: "mpi", args: ["33", "9", "f32,u8,u64"], atLeast: 150 },
  {
    ...{ mpi: "Open MPI", how: "on two pretended hosts", ranks: 4, backend: "shm+mpi", args: ["33,40000", "7", LESS] },
    ...{ env: { SHARDWISE_PRETEND_HOSTS: "a,b,a,b" }, atLeast: 400 },
  },
  {
    ...{ mpi: "MPICH", how: "on two pretended hosts", ranks: 3, backend: "shm+mpi", args: ["0,3", "7", "f16,i32"] },
    ...{ env: { SHARDWISE_PRETEND_HOSTS: "a,b,b" }, atLeast: 200 },
  },
  { mpi: "Open MPI", how: "on one host", ranks: 2, backend: "shm+mpi", args: ["3", "9", "f32,u8"], atLeast: 100 },
  { mpi: "Open MPI", how: "over shared memory", ranks: 7, backend: "mpi", args: ["3", "9", "f32,i64"], atLeast: 300 },
  { mpi: "MPICH", how: "over shared memory", ranks: 16, backend: "mpi", args: ["3", "99", "f32"], atLeast: 150 },
  {
    ...{ mpi: "Open MPI", how: "on four pretended hosts", ranks: 16, backend: "shm+mpi", args: ["3", "99", "f32"] },
    ...{ env: { SHARDWISE_PRETEND_HOSTS: "a,b,a,c,b,a,c,a,b,b,b,a,c,c,c,d" }, atLeast: 150 },
  },
];

/** Every size, dtype and operation on every number of ranks: some 40 minutes on two cores, since ranks mostly wait. */
const WHOLE: readonly Run[] = [1, 2, 3, 4, 7, 16].flatMap((ranks) => {
  const hosts = Array.from({ length: ranks }, (_, r) => "abacb"[r % 5]).join();
  return (["mpi", "shm+mpi"] as const).map((backend) => ({
    ...{ mpi: "Open MPI", how: "as a whole", ranks, backend, args: ["0,1,3,1023,1048576", "1"] },
    ...{ env: { SHARDWISE_PRETEND_HOSTS: hosts }, atLeast: 13_000 },
  }));
});

for (const { mpi, how, ranks, backend, args, flags = [], env = {}, atLeast } of [...RUNS, ...WHOLE]) {
  const [sizes, sparse] = args, whole = how === "as a whole";
  Deno.test({
    name: `${backend} does every verb right on ${ranks} ranks of ${mpi} ${how}, ${sizes} elements, 1 of ${sparse}`,
    ignore: whole && Deno.env.get("SHARDWISE_TEST_ALL") !== "1",
    fn: async () => {
      const command = await mpirunOrSkip(mpi);
      if (command === undefined) return;
      const result = await mpirun(command, ranks, CONFORMANCE, {
        ...{ args, flags, env: { SHARDWISE_COMM_BACKEND: backend, ...env } },
        ...whole ? { timeoutMs: 1_800_000 } : {},
      });
      assert.equal(result.code, 0, result.stderr.slice(-3000));
      const printed = result.lines.map((l) => JSON.parse(l) as { cases: number; hash: string; backend: string });
      assert.equal(printed.length, ranks);
      assert.equal(new Set(printed.map((p) => p.hash)).size, 1);
      for (const p of printed) {
        assert.equal(p.backend, backend);
        assert.ok(p.cases >= atLeast, `${p.cases} cases`);
      }
    },
  });
}

for (const mpi of ["Open MPI", "MPICH"] as const) {
  Deno.test(`messages, groups and waits keep their borders over ${mpi}`, async () => {
    const command = await mpirunOrSkip(mpi);
    if (command === undefined) return;
    const { code, lines, stderr } = await mpirun(command, 2, CASES);
    assert.equal(code, 0, stderr.slice(-3000));
    assert.equal(lines.length, 2);
    assert.equal((JSON.parse(lines[0]!) as string[]).length, 11);
  });
}

Deno.test("a program that ends without closing its communicator has succeeded, and one that throws has not", async () => {
  const command = await mpirunOrSkip("Open MPI");
  if (command === undefined) return;
  const [left, threw] = await Promise.all(["leave", "throw"].map((how) => mpirun(command, 1, CASES, { args: [how] })));
  assert.equal(left!.code, 0, left!.stderr.slice(-3000));
  assert.equal(threw!.code, 1);
  assert.match(threw!.stderr, /a rank that fails/);
});

Deno.test("a model runs on the ranks of one host by shm+mpi, and says over mpi and over hosts why it does not", async () => {
  const command = await mpirunOrSkip("Open MPI");
  if (command === undefined) return;
  const run = async (env: Record<string, string>) => {
    const { code, lines, stderr } = await mpirun(command, 2, MODEL, { env });
    assert.equal(code, 0, stderr.slice(-3000));
    return lines.map((l) => JSON.parse(l) as { elements?: number; off?: number; name?: string; message?: string });
  };
  for (const { elements, off } of await run({ SHARDWISE_BACKEND: "shm+mpi" })) {
    assert.equal(elements, 128);
    assert.ok(off! < 1e-5, `${off}`); // sums of 64 products of numbers around 1, in another order
  }
  for (const [SHARDWISE_BACKEND, SHARDWISE_PRETEND_HOSTS] of [["mpi", "a,a"], ["shm+mpi", "a,b"]] as const) {
    for (const { name, message } of await run({ SHARDWISE_BACKEND, SHARDWISE_PRETEND_HOSTS })) {
      assert.equal(name, "CommunicatorError");
      assert.match(message!, /Cannot run a model on 2 ranks that (shm\+)?mpi joins: .* in shared memory/);
    }
  }
});

interface Told {
  readonly rank: number;
  readonly name: string;
  readonly message: string;
  readonly hint?: string;
  readonly missing?: number[];
  /** How long it had waited. */
  readonly ms: number;
}

/** What each rank was told. */
function told({ lines, stderr }: MpiResult, ranks: number): Told[] {
  const all = lines.map((l) => JSON.parse(l) as Told).sort((a, b) => a.rank - b.rank);
  assert.equal(all.length, ranks, stderr.slice(-3000));
  return all;
}

Deno.test("ranks that wait too long are told who is missing, and the missing one that they gave up", async () => {
  const command = await mpirunOrSkip("Open MPI");
  if (command === undefined) return;
  const folder = await Deno.makeTempDir({ prefix: "shardwise-test-" });
  const env = { SHARDWISE_FLIGHT_DIR: folder };
  const [a, late, c] = told(await mpirun(command, 3, FAULTS, { args: ["late"], env }), 3);
  for (const { name, message, missing } of [a!, c!]) {
    assert.equal(name, "CollectiveTimeout", message);
    assert.deepEqual(missing, [1]);
    assert.match(
      message,
      /in allReduce sum f32\[3\] seq 1 of group "world" waited 1\.0 s for rank 1: rank 1 does not answer/,
    );
  }
  assert.equal(late!.name, "CollectiveAborted", late!.message);
  assert.match(late!.message, /rank [02] of group "world" gave up; rank 1 in .* cannot go on/);
  // Each has written what it did last.
  for (const rank of [0, 2]) {
    const dump = JSON.parse(await Deno.readTextFile(`${folder}/flight-0-${rank}.json`));
    assert.match(dump.reason, /^CollectiveTimeout: /);
    const world = dump.groups.find((g: { name: string }) => g.name === "world");
    const { seq, verb, op, count, state } = world.entries.at(-1);
    assert.deepEqual({ seq, verb, op, count, state }, {
      seq: 1,
      verb: "allReduce",
      op: "sum",
      count: 3,
      state: "started",
    });
  }
  await Deno.remove(folder, { recursive: true });
});

for (const [backend, hosts] of [["mpi", "a,b,c"], ["shm+mpi", "a,a,b"]] as const) {
  Deno.test(`a rank that is killed over ${backend} is named to the others within a second`, async () => {
    const command = await mpirunOrSkip("Open MPI");
    if (command === undefined) return;
    const env = { SHARDWISE_PRETEND_HOSTS: hosts };
    // Else mpirun would end them too, after a second or so.
    const flags = ["--enable-recovery"];
    const { lines, stderr } = await mpirun(command, 3, FAULTS, { args: ["kill", backend], env, flags });
    const all = lines.map((l) => JSON.parse(l) as Told);
    assert.deepEqual(all.map((t) => t.rank).sort(), [0, 2], stderr.slice(-3000));
    for (const { message, ms } of all) {
      assert.match(message, /rank 1 of group "[^"]*" ended \((process \d+|as rank \d saw)\).* waits for/);
      assert.ok(ms < 1000, `${ms} ms`);
    }
    assert.ok(all.some((t) => t.name === "PeerLost"), all.map((t) => t.name).join());
  });
}

Deno.test("a rank that is killed takes the job with it, and mpirun says so", async () => {
  for (const [mpi, says] of [["Open MPI", /rank 1 .* exited on signal 9/], ["MPICH", /Killed \(signal 9\)/]] as const) {
    const command = await mpirunOrSkip(mpi);
    if (command === undefined) continue;
    const { code, lines, stderr } = await mpirun(command, 2, FAULTS, { args: ["kill"] });
    assert.notEqual(code, 0);
    assert.match(lines.join("\n") + stderr, says);
    assert.deepEqual(lines.filter((l) => l.includes('"none"')), []);
  }
});

Deno.test("where SHARDWISE_COMM_CHECK is 1, different collectives are told to all ranks with all sides", async () => {
  const command = await mpirunOrSkip("MPICH");
  if (command === undefined) return;
  const env = { SHARDWISE_COMM_CHECK: "1" };
  for (const { name, message } of told(await mpirun(command, 3, FAULTS, { args: ["mismatch"], env }), 3)) {
    assert.equal(name, "CollectiveMismatch", message);
    assert.match(message, /rank 0 allReduce sum f32\[3\] seq 1; rank 1 allReduce sum f32\[4\] seq 1; rank 2 allReduce/);
  }
  for (const { name, message } of told(await mpirun(command, 3, FAULTS, { args: ["blocks"], env }), 3)) {
    assert.equal(name, "CollectiveMismatch", message);
    assert.match(message, /in allToAll rank 1 sends 1 elements to rank 2, which expects 2 of it/);
  }
});

Deno.test("a rank that aborts, or cancels, is told by name to those that wait", async () => {
  const command = await mpirunOrSkip("Open MPI");
  if (command === undefined) return;
  const [aborted, cancelled] = await Promise.all(
    ["abort", "cancel"].map(async (fault) => told(await mpirun(command, 2, FAULTS, { args: [fault] }), 2)),
  );
  assert.equal(aborted![0]!.name, "CollectiveAborted");
  assert.match(aborted![0]!.message, /rank 1 of group "world" gave up; .*a rank has had enough/);
  assert.equal(aborted![1]!.name, "CommunicatorError");
  assert.equal(cancelled![0]!.name, "CollectiveAborted");
  assert.match(cancelled![0]!.message, /rank 1 .* was cancelled/);
});

Deno.test("a message that does not come names whom it was to come from", async () => {
  const command = await mpirunOrSkip("MPICH");
  if (command === undefined) return;
  const all = told(await mpirun(command, 2, FAULTS, { args: ["message"] }), 2);
  assert.ok(all.some((t) => t.name === "CollectiveTimeout"), all.map((t) => t.name).join()); // the other may hear of it first
  assert.match(all.map((t) => t.message).join("\n"), /rank (0|1) of group "world" waited 0\.5 s to receive from rank/);
});

Deno.test("ranks that another MPI's mpirun started are told so", async () => {
  const command = await mpirunOrSkip("Open MPI");
  if (command === undefined || (await mpirunOrSkip("MPICH")) === undefined) return;
  const env = { SHARDWISE_LIBMPI: "libmpich.so.12" };
  for (const { name, message, hint } of told(await mpirun(command, 2, FAULTS, { args: ["join"], env }), 2)) {
    assert.equal(name, "RendezvousError", message);
    assert.match(
      message,
      /libmpi \(MPICH Version: .*\) says rank 0 of 1, because mpirun of Open MPI started the ranks/,
    );
    assert.match(hint!, /mpirun of MPICH, or set SHARDWISE_LIBMPI/);
  }
});

Deno.test("ranks that no mpirun started are told how to start them", async () => {
  const command = await mpirunOrSkip("Open MPI");
  if (command === undefined) return;
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", FAULTS.pathname, "join"],
    env: { SHARDWISE_RANK: "1", SHARDWISE_WORLD_SIZE: "2", SHARDWISE_LIBMPI: "", NO_COLOR: "1" },
    stderr: "null",
  }).output();
  const { name, message, hint } = JSON.parse(new TextDecoder().decode(stdout)) as Told;
  assert.equal(name, "UnavailableError");
  assert.match(message, /Cannot join a job of 2 ranks as rank 1 .* because no mpirun started the ranks/);
  assert.match(hint!, /mpirun -n N, or use the backend shm/);
});
