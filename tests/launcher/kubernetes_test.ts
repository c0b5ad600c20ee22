/** The Kubernetes example, pod by pod on this host: its own command and variables, and those that Kubernetes would set. */
import assert from "node:assert/strict";
import { assertNothingLeft, start } from "./harness.ts";

const ROOT = new URL("../..", import.meta.url).pathname.replace(/\/$/, "");
const YAML = Deno.readTextFileSync(`${ROOT}/examples/cluster/kubernetes_job.yaml`);

/** The text of a line `key: …`. */
function value(key: string): string {
  return new RegExp(`^ *(?:- )?${key}: (.*)$`, "m").exec(YAML)?.[1] ?? assert.fail(`${key} is not in the example`);
}

/** The words of a list `key: ["…", …]`, which may go over several lines. */
function words(key: string): string[] {
  const list = new RegExp(`^ *${key}:\\s*\\[([^\\]]*)\\]`, "m").exec(YAML)?.[1] ??
    assert.fail(`${key} is not in the example`);
  return [...list.matchAll(/"([^"]*)"/g)].map((match) => match[1]!);
}

/** A variable that the example gives its pods as a text. */
function variable(name: string): string {
  const found = new RegExp(`- name: ${name}\\n +value: "?([^"\\n]*)"?\\n`).exec(YAML);
  return found?.[1] ?? assert.fail(`${name} has no value in the example`);
}

Deno.test("the pods of the Kubernetes example make one job, by its command and its variables", async () => {
  const probe = Deno.listen({ hostname: "127.0.0.1", port: 0 }), port = String(probe.addr.port);
  probe.close();
  const [deno, run, all, , ...args] = words("command");
  assert.deepEqual([deno, run, all], ["deno", "run", "-A"]);
  const completions = Number(value("completions"));
  assert.equal(variable("SHARDWISE_NNODES"), String(completions));
  const jobs = Array.from({ length: completions }, (_, index) =>
    // Pods have addresses of their own, so that each has the port of the probe; here they share a host.
    start(
      args.map((arg) =>
        arg === value("httpGet").match(/port: (\d+)/)![1] ? "0" : arg.replace(/^examples/, `${ROOT}/examples`)
      ),
      {
        env: {
          JOB_COMPLETION_INDEX: String(index),
          HOSTNAME: `shardwise-${index}`,
          SHARDWISE_NNODES: variable("SHARDWISE_NNODES"),
          SHARDWISE_SERVICE: variable("SHARDWISE_SERVICE"),
          SHARDWISE_TOKEN: value("token"),
          // No cluster DNS here knows the name of pod 0.
          MASTER_ADDR: "127.0.0.1",
          MASTER_PORT: port,
        },
      },
    ));
  const runs = await Promise.all(jobs.map((job) => job.done));
  assert.deepEqual(runs.map((r) => r.code), runs.map(() => 0), runs.map((r) => r.stderr).join());
  const ranks = runs.flatMap((r) => r.stdout.trimEnd().split("\n")).sort();
  assert.equal(ranks.length, 2 * completions);
  ranks.forEach((line, rank) =>
    assert.match(line, new RegExp(`^\\[rank ${rank}\\] rank ${rank} of ${ranks.length} .* node ${rank >> 1} of`))
  );
  for (const job of jobs) await assertNothingLeft(job);
});
