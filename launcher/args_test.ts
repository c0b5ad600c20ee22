import assert from "node:assert/strict";
import { UsageError } from "../src/core/errors.ts";
import { duration, parseArgs, rankSet } from "./args.ts";
import type { LaunchConfig } from "./config.ts";
import { inform } from "./inform.ts";
import { ENV_TWINS, envTwin, OPTIONS } from "./options.ts";

async function config(args: string, env: Record<string, string> = {}): Promise<LaunchConfig> {
  return (await parseArgs(args.split(" ").filter((arg) => arg !== ""), env)).config!;
}

Deno.test("what follows the program belongs to the program", async () => {
  const c = await config("--nproc 4 train.ts --nproc 9 -- -x");
  assert.equal(c.nproc, 4);
  assert.deepEqual(c.program, { kind: "deno", script: "train.ts" });
  assert.deepEqual(c.args, ["--nproc", "9", "--", "-x"]);
});

Deno.test("torchrun's spellings mean the same", async () => {
  for (const args of ["--nproc-per-node 4 x.ts", "--nproc_per_node=4 x.ts", "-n 4 x.ts", "--nproc=4 x.ts"]) {
    assert.equal((await config(args)).nproc, 4, args);
  }
  const c = await config(
    "--nnodes=2 --node_rank=1 --master_addr=h --master_port=1234 --rdzv_id=job7 --rdzv-backend c10d x.ts",
  );
  assert.deepEqual([c.nnodes, c.nodeRank, c.rdzv, c.token], [2, 1, "tcp://h:1234", "job7"]);
  assert.equal((await config("--rdzv-endpoint h:29400 x.ts")).rdzv, "tcp://h:29400");
  assert.equal((await config("--nnodes 2:2 x.ts")).nnodes, 2);
  assert.deepEqual((await config("--no-python ./a.out x")).program, { kind: "exec", command: "./a.out" });
  assert.equal((await config("-t 3 x.ts")).tee, "both");
});

Deno.test("each option has an environment twin; a flag beats its twin, which beats torchrun's", async () => {
  assert.equal((await config("x.ts", { SHARDWISE_NPROC: "3", PET_NPROC_PER_NODE: "5" })).nproc, 3);
  assert.equal((await config("x.ts", { PET_NPROC_PER_NODE: "5" })).nproc, 5);
  assert.equal((await config("-n 2 x.ts", { SHARDWISE_NPROC: "3" })).nproc, 2);
  assert.equal((await config("x.ts", { SHARDWISE_QUIET: "1" })).output, "quiet");
  assert.equal((await config("x.ts", { SHARDWISE_QUIET: "0" })).output, "prefix");
  assert.equal((await config("x.ts", { SHARDWISE_GRACE: "2s" })).graceMs, 2000);
  assert.equal(ENV_TWINS.get("SHARDWISE_LOG_DIR")?.name, "log-dir");
});

Deno.test("no twin is a variable that ranks read, so that a launcher inside a rank starts afresh", () => {
  const ranks = [
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "RUN_ID",
    "JOB_ID",
    "ATTEMPT",
    "ERROR_FILE",
    "LAUNCHER_PID",
    "STORE_TOKEN",
  ];
  for (const name of ranks) assert.equal(ENV_TWINS.has(`SHARDWISE_${name}`), false, name);
});

Deno.test("times and lists of ranks are read with their units and ranges", () => {
  assert.deepEqual(["90", "1.5s", "500ms", "2m", "1h"].map((t) => duration("x", t)), [
    90_000,
    1500,
    500,
    120_000,
    3_600_000,
  ]);
  assert.deepEqual([...rankSet("x", "0,4-6")], [0, 4, 5, 6]);
});

const REFUSED: [args: string, message: RegExp][] = [
  ["", /no program was given/],
  ["--nprok 2 x.ts", /Unknown option "--nprok": did you mean "--nproc"\?/],
  ["--log_dri a x.ts", /did you mean "--log-dir"\?/],
  ["--nproc", /--nproc: it needs N\|auto\|cpu\|gpu/],
  ["--nproc 0 x.ts", /--nproc "0": expected a number from 1 on/],
  ["--nproc many x.ts", /auto, cpu or gpu/],
  ["--nnodes 1:4 x.ts", /number of nodes cannot change/],
  ["--timeout soon x.ts", /a time such as/],
  ["--show-ranks 5-2 x.ts", /ranks such as/],
  ["--on-failure ignore x.ts", /one of abort, continue/],
  ["--quiet --rank0 x.ts", /--quiet and --rank0/],
  ["--rdzv tcp://a:1 --master-addr b x.ts", /two places/],
  ["--exec --bundle x", /--bundle with --exec/],
  ["--quiet=maybe x.ts", /true or false/],
  ["--log-dir= x.ts", /--log-dir "": expected something/],
  ["--stop-signals TERM,KILL x.ts", /some of TERM, INT, .*with commas/],
  ["--token= x.ts", /--token "": expected something/],
  ["--log-dir --nproc 2 x.ts", /--log-dir: it needs FOLDER, but --nproc follows/],
  ["--nproc x.ts", /--nproc "x\.ts": expected a number/],
  ["--rdzv-backend etcd x.ts", /one of static, c10d/],
  ["--master-port 99999 x.ts", /a port from 1 to 65535/],
  ["--timeout 0 x.ts", /more than 0/],
  ["--grace 90d x.ts", /at most 24d/],
  ["--env 1X=3 x.ts", /expected NAME=VALUE/],
  ["--env RANK=3 x.ts", /gives every rank its own RANK/],
  ["--env SURELY_NOT_SET x.ts", /it is not set here/],
];
for (const [args, message] of REFUSED) {
  Deno.test(`the command line "${args}" is refused with a reason`, async () => {
    await assert.rejects(
      config(args),
      (error) => error instanceof UsageError && message.test(error.message) || assert.fail(String(error)),
    );
  });
}

Deno.test("a wrong value is blamed on the variable that it came from", async () => {
  await assert.rejects(
    config("x.ts", { SHARDWISE_GRACE: "soon" }),
    /Cannot use SHARDWISE_GRACE="soon": expected a time/,
  );
  await assert.rejects(config("x.ts", { PET_NNODES: "two" }), /Cannot use PET_NNODES="two"/);
});

Deno.test("--env passes variables on by value, by name and by prefix, but never those of a rank", async () => {
  const env = { PET_A: "1", PET_B: "2", MASTER_X: "3", MASTER_ADDR: "h" };
  assert.deepEqual((await config("--env A=b=c --env PET_B x.ts", env)).env, { A: "b=c", PET_B: "2" });
  assert.deepEqual((await config("--env MASTER_* x.ts", env)).env, { MASTER_X: "3" });
});

Deno.test("--help names every option, its other names and its twin's pattern", async () => {
  const text = inform(await parseArgs(["--help"], {}), {});
  for (const option of OPTIONS) {
    assert.ok(text.includes(`--${option.name} `) || text.includes(`--${option.name}\n`), option.name);
  }
  assert.match(text, /--nproc-per-node/);
  assert.ok(text.includes(envTwin("log-dir")));
  for (const line of text.split("\n")) assert.ok(line.length <= 180, line);
});

Deno.test("--explain-env says which scheme counts and hides the token", async () => {
  const env = { SHARDWISE_RANK: "1", SHARDWISE_WORLD_SIZE: "2", SHARDWISE_STORE_TOKEN: "geheim", HOME: "/x" };
  const text = inform(await parseArgs(["--explain-env"], env), env);
  assert.match(text, /^shardwise: rank 1 of 2/);
  assert.doesNotMatch(text, /geheim|HOME/);
  const node = ["--explain-env", "--nnodes", "2", "--node-rank", "1", "--rdzv", "tcp://h:1"];
  assert.match(inform(await parseArgs(node, {}), {}), /as a launcher: node 1 of 2, by flags, meets at tcp:\/\/h:1/);
  const bad = { SHARDWISE_RANK: "x", SHARDWISE_WORLD_SIZE: "2" };
  assert.match(inform(await parseArgs(["--explain-env"], bad), bad), /^error: Cannot use SHARDWISE_RANK="x"/);
});

Deno.test("--dry-run prints the command of a rank, quoted for a shell", async () => {
  const text = inform(await parseArgs(["--dry-run", "-n", "3", "--exec", "sh", "-c", "echo $RANK"], {}), {});
  await assert.rejects(async () => inform(await parseArgs(["--dry-run", "no_such.ts"], {}), {}), /no such file/);
  const bound = inform(await parseArgs(["--dry-run", "-n", "2", "--bind", "core", "--exec", "true"], {}), {});
  assert.match(bound, /^2 ranks on this host, of 1 hosts:\n.*taskset -c \d.*true\n.*taskset -c \d.*true\n$/);
  assert.match(text, /^3 ranks on this host, of 1 hosts; each:\n.*sh -c 'echo \$RANK'\n$/);
});
