import assert from "node:assert/strict";
import type { ErrorRecord } from "../src/core/exit_report.ts";
import { parseAbort } from "./abort_notice.ts";
import { parseCpuList, shareCpus, shareNodes } from "./binding.ts";
import { nodePlace } from "./node_place.ts";
import { explain, ownEnd, type RankOutcome } from "./outcome.ts";
import { closingLines, finalReport } from "./report.ts";
import { rankRanges } from "./rank_ranges.ts";
import { exitCode, mayRestart } from "./verdict.ts";

function outcome(fields: Partial<RankOutcome>): RankOutcome {
  return {
    rank: 0,
    localRank: 0,
    host: "node01",
    pid: 812,
    kind: "failed",
    code: 1,
    signal: null,
    endedMs: 100,
    record: undefined,
    tail: [],
    tailOf: "stderr",
    ...fields,
  };
}

const record = (fields: Partial<ErrorRecord>): ErrorRecord => ({ kind: "exception", message: "m", time: 0, ...fields });
const INPUT = { runId: "7f3a", code: 3, elapsedMs: 12_400, graceMs: 30_000 };

Deno.test("a report of 64 ranks with endless stacks and lines has at most 40 lines", () => {
  const noisy = {
    tail: Array(40).fill("x".repeat(5000)),
    record: record({ stack: "Error\n" + "    at f (/a.ts:1:2)\n".repeat(50) }),
  };
  const outcomes = Array.from(
    { length: 64 },
    (_, rank) => outcome({ rank, ...noisy, kind: rank % 2 ? "failed" : "victim" }),
  );
  const lines = finalReport({ ...INPUT, result: { outcomes, cause: outcomes[1], stop: { kind: "failure" } } });
  assert.ok(lines.length <= 40, `${lines.length} lines`);
  for (const line of lines) assert.ok(line.length <= 401);
  assert.match(lines[0]!, /^shardwise: job 7f3a FAILED after 12\.4 s {2}\(exit 3\)$/);
});

Deno.test("each way to end is explained in words, with what to do", () => {
  const says = (fields: Partial<RankOutcome>, oom = 0) => {
    const { headline, hint } = explain(outcome(fields), oom);
    return `${headline} | ${hint ?? ""}`;
  };
  assert.match(
    says({ code: 133, signal: "SIGTRAP", tail: ["<--- Last few GCs --->"] }),
    /V8 ran out of memory \| .*max-old-space-size/,
  );
  assert.match(says({ code: 137, signal: "SIGKILL" }, 1), /killed by the kernel: out of memory/);
  assert.match(says({ code: 137, signal: "SIGKILL" }), /not by the launcher \| .*dmesg/);
  assert.match(says({ code: 139, signal: "SIGSEGV" }), /native crash: SIGSEGV/);
  assert.match(
    says({ code: 1, tail: ['error: Module not found "x"', "    at file:///a.ts:1:1"] }),
    /^Module not found/,
  );
  assert.match(says({ code: 9 }), /^exited with code 9/);
  assert.match(
    says({ record: record({ name: "TypeError", message: "x is undefined" }) }),
    /^TypeError: x is undefined/,
  );
});

Deno.test("a victim is told apart by its code and by its record", () => {
  assert.equal(ownEnd(114, undefined), "victim");
  assert.equal(ownEnd(1, record({ kind: "victim" })), "victim");
  assert.equal(ownEnd(1, undefined), "failed");
  assert.equal(ownEnd(0, undefined), "done");
});

Deno.test("a clean error is printed alone only when every failing rank reports the same", () => {
  const user = record({ kind: "user", message: "no file", hint: "give one" });
  const same = [
    outcome({ rank: 0, code: 3, record: user }),
    outcome({ rank: 1, code: 3, record: user }),
    outcome({ rank: 2, kind: "stopped" }),
  ];
  assert.deepEqual(closingLines({ ...INPUT, result: { outcomes: same, cause: same[0], stop: undefined } }), [
    "error: no file",
    "hint: give one",
  ]);
  const mixed = [...same, outcome({ rank: 3, code: 7 })];
  assert.match(closingLines({ ...INPUT, result: { outcomes: mixed, cause: mixed[0], stop: undefined } })[0]!, /FAILED/);
});

Deno.test("exit codes follow the cause, then the reason to stop", () => {
  const none = { outcomes: [], cause: undefined };
  assert.equal(exitCode({ ...none, stop: undefined }), 0);
  assert.equal(exitCode({ ...none, stop: { kind: "timeout" } }), 124);
  assert.equal(exitCode({ ...none, stop: { kind: "unread" } }), 141);
  assert.equal(exitCode({ ...none, stop: { kind: "signal", signal: "SIGTERM" } }), 143);
  assert.equal(exitCode({ ...none, stop: { kind: "abort", notice: parseAbort('{"message":"m","code":9}') } }), 9);
  assert.equal(
    exitCode({ outcomes: [], cause: outcome({ code: 139, signal: "SIGSEGV" }), stop: { kind: "failure" } }),
    139,
  );
  assert.equal(mayRestart({ outcomes: [], cause: outcome({ code: 75 }), stop: undefined }, 75), false);
});

Deno.test("an abort's text can be anything", () => {
  assert.deepEqual(parseAbort("just words"), { message: "just words", code: 1 });
  assert.equal(parseAbort('{"message":"m","code":999}').code, 1);
  assert.equal(parseAbort('{"message":5}').message, '{"message":5}');
  assert.equal(parseAbort("null").code, 1);
});

Deno.test("rankRanges() folds runs of ranks", () => {
  assert.equal(rankRanges([6, 0, 2, 3, 4]), "0,2-4,6");
});

Deno.test("cores are dealt in runs, and in turn when there are fewer than ranks; NUMA nodes are kept whole", () => {
  assert.deepEqual(parseCpuList("0-2,8\n"), [0, 1, 2, 8]);
  assert.deepEqual(shareCpus([0, 1, 2, 3, 4], 2), [[0, 1, 2], [3, 4]]);
  assert.deepEqual(shareCpus([4, 5], 3), [[4], [5], [4]]);
  assert.deepEqual(shareNodes([[0, 1], [2, 3]], 4), [[0, 1], [0, 1], [2, 3], [2, 3]]);
  assert.deepEqual(shareNodes([[0, 1], [], [2, 3]], 1), [[0, 1]]);
});

Deno.test("a launcher finds its node from flags, else from the scheduler, unless it runs inside a rank", () => {
  const config = { program: { kind: "exec" as const, command: "x" } };
  const step = {
    SLURM_JOB_ID: "7",
    SLURM_STEP_ID: "0",
    SLURM_STEP_NODELIST: "n[1-2]",
    SLURM_PROCID: "1",
    SLURM_STEP_NUM_TASKS: "2",
    SLURM_NODEID: "1",
    SLURM_STEP_NUM_NODES: "2",
  };
  assert.deepEqual(nodePlace(config, {}).nnodes, 1);
  const place = nodePlace(config, step);
  assert.deepEqual([place.nodeRank, place.nnodes, place.rdzv, place.token], [1, 2, "tcp://n1:61657", "slurm-7-0-0"]);
  assert.equal(nodePlace(config, { ...step, SHARDWISE_RANK: "0" }).nnodes, 1);
  assert.equal(nodePlace({ ...config, nnodes: 1 }, step).nnodes, 1);
  assert.throws(() => nodePlace({ ...config, nnodes: 2 }, {}), /which of 2 nodes/);
  assert.throws(() => nodePlace({ ...config, nnodes: 2, nodeRank: 2, rdzv: "tcp://a:1" }, {}), /node 2 of 2/);
  assert.throws(() => nodePlace({ ...config, nnodes: 2, nodeRank: 0 }, {}), /no place to meet/);
  assert.throws(() => nodePlace({ ...config, nodeRank: 1 }, {}), /node 1 of 1/);
});
