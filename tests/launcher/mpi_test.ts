/** Real mpirun, of Open MPI and of MPICH. Each test says what is missing where it cannot run. */
import assert from "node:assert/strict";
import {
  assertDemo,
  assertOneJob,
  DEMO,
  ENDLESS,
  everyone,
  LAUNCH,
  output,
  PATH,
  ROOT,
  sharedMemory,
  testWith,
  until,
  WHO,
} from "./cluster.ts";
import { openMpiEnv } from "../support/open_mpi.ts";
import { alive, program } from "./harness.ts";
import { which } from "./slurm.ts";

function tool(...names: string[]): [path: string, missing: string | undefined] {
  const found = names.map(which).find((path) => path !== undefined);
  return [found ?? "", found === undefined ? `${names[0]} is not installed` : undefined];
}

const [openMpi, noOpenMpi] = tool("mpirun.openmpi");
const [mpich, noMpich] = tool("mpirun.mpich", "mpiexec.hydra");
const FLAVOURS = [
  ["Open MPI", "openmpi", [openMpi, "--oversubscribe"], noOpenMpi],
  ["MPICH", "hydra", [mpich], noMpich],
] as const;

for (const [name, scheme, mpirun, missing] of FLAVOURS) {
  testWith(`ranks that ${name}'s mpirun starts know who they are`, missing, async () => {
    const { code, text } = await output([...mpirun, "-n", "4", ...WHO], openMpiEnv());
    assert.equal(code, 0, text);
    assertOneJob(everyone(text), 4, scheme);
  });

  testWith(`the demo runs on 4 ranks of ${name}'s mpirun`, missing, async () => {
    const { code, text } = await output([...mpirun, "-n", "4", Deno.execPath(), "run", "-A", DEMO], openMpiEnv());
    assert.equal(code, 0, text);
    assertDemo(text);
  });

  testWith(`SIGTERM to ${name}'s mpirun ends ranks in a collective, and nothing of them is left`, missing, async () => {
    const mark = crypto.randomUUID(), before = sharedMemory();
    const job = new Deno.Command(mpirun[0], {
      args: [...mpirun.slice(1), "-n", "4", Deno.execPath(), "run", "-A", ...ENDLESS],
      env: { ...openMpiEnv(), TEST_MARK: mark },
      stdin: "null",
      stdout: "piped",
      stderr: "null",
    }).spawn();
    let text = "";
    const reading = job.stdout.pipeThrough(new TextDecoderStream()).pipeTo(
      new WritableStream({ write: (chunk) => void (text += chunk) }),
    );
    await until(() => text.match(/is up/g)?.length === 4, 60_000);
    job.kill("SIGTERM");
    await until(() => alive(mark).length === 0, 20_000);
    assert.notEqual((await job.status).code, 0);
    await reading;
    // Other tests' jobs come and go meanwhile; Open MPI's names do not carry a pid, so new ones are looked at by the scheme.
    assert.deepEqual(sharedMemory().filter((name) => !before.includes(name) && name.includes(scheme)), []);
  });
}

testWith("two mpirun jobs have different run ids", noOpenMpi, async () => {
  const [a, b] = await Promise.all([
    output([openMpi, "-n", "1", ...WHO], openMpiEnv()),
    output([openMpi, "-n", "1", ...WHO], openMpiEnv()),
  ]);
  assert.notEqual(everyone(a.text)[0]!.runId, everyone(b.text)[0]!.runId);
});

testWith("mpirun of one launcher a host makes one job of all their ranks", noOpenMpi, async () => {
  const launchers = [openMpi, "--oversubscribe", "-n", "2", ...LAUNCH, "--nproc", "2"];
  const { code, text } = await output([...launchers, program("barrier.ts"), "all"], openMpiEnv());
  assert.equal(code, 0, text);
  assert.equal(text.match(/past the barrier of all with 4/g)?.length, 4, text);
});

testWith("a launcher whose mpirun is killed ends its ranks", noOpenMpi, async () => {
  const mark = crypto.randomUUID();
  const job = new Deno.Command(openMpi, {
    args: ["-n", "1", ...LAUNCH, "--nproc", "2", program("fault.ts"), "done", "99"],
    env: { ...openMpiEnv(), TEST_MARK: mark },
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  // mpirun, the launcher and two ranks; the launcher asks for this once its ranks run.
  await until(() => alive(mark).length === 4, 20_000);
  await new Promise((done) => setTimeout(done, 500));
  job.kill("SIGKILL");
  await job.status;
  await until(() => alive(mark).length === 0, 5_000);
});

testWith("the example mpi.sh runs as it is", noOpenMpi ?? noMpich, async () => {
  // Three slots on a small host need --oversubscribe with Open MPI, which one rank does not.
  const { code, text } = await output([`${ROOT}/examples/cluster/mpi.sh`, "1"], { ...openMpiEnv(), PATH });
  assert.equal(code, 0, text);
  assert.match(text, /rank 0 of 1 /);
});
