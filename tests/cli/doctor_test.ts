/** `shardwise doctor`, as a user calls it. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import type { HostReport } from "../../src/runtime/host/host_report.ts";
import { shardwise, shardwiseIn } from "../support/cli.ts";

Deno.test("shardwise doctor prints the machine, each library, and what that means", async () => {
  const { code, stdout, stderr } = await shardwise("doctor");
  assert.equal(code, 0, stderr);
  for (const row of ["deno", "cores", "memory", "huge pages", "/dev/shm", "gpus"]) {
    assert.match(stdout, new RegExp(`^${row} +\\S`, "m"));
  }
  assert.match(stdout, new RegExp(`^deno +${Deno.version.deno.replaceAll(".", "\\.")} `, "m"));
  for (
    const name of ["libc", "onnxruntime-node", "libmpi", "libcuda", "libcublas", "libcublasLt", "libnvrtc", "libnccl"]
  ) {
    assert.match(stdout, new RegExp(`^  ${name} +(not found; tried \\S|\\S)`, "m"));
  }
  assert.match(stdout, /^ +\d+ cores?: at most \d+ ranks? runs? at full speed$/m);
});

Deno.test("a GPU's library that is missing or does not load is told with the reason and the package that has it", async () => {
  const missing = { SHARDWISE_LIBNCCL: "/no/libnccl.so.2", SHARDWISE_LIBCUBLAS: fileURLToPath(import.meta.url) };
  const { code, stdout } = await shardwiseIn(missing, "doctor");
  assert.equal(code, 0);
  assert.match(stdout, /^ {2}libnccl +not found; tried \/no\/libnccl\.so\.2; pip install nvidia-nccl-cu13/m);
  assert.match(stdout, /^ {2}libcublas +does not load: .*doctor_test\.ts: .*; pip install nvidia-cublas /m);
});

Deno.test("shardwise doctor --json gives the same facts as data, with the pinned engine's version", async () => {
  const { code, stdout, stderr } = await shardwise("doctor", "--json");
  assert.equal(code, 0, stderr);
  const report = JSON.parse(stdout) as HostReport;
  assert.equal(report.deno, Deno.version.deno);
  assert.equal(report.machine.cpus.allowedCount >= 1, true);
  const engine = report.libraries.find((l) => l.name === "onnxruntime-node")!;
  if (engine.found) assert.equal(engine.version, "1.30.0");
  else assert.ok(engine.problem);
  for (const library of report.libraries) assert.ok(library.found || library.tried.length > 0, library.name);
});

Deno.test("shardwise doctor says that an argument is too much, and explains itself", async () => {
  const wrong = await shardwise("doctor", "model.onnx");
  assert.equal(wrong.code, 64);
  assert.match(wrong.stderr, /it takes no arguments, but "model.onnx" was given/);
  const help = await shardwise("doctor", "--help");
  assert.equal(help.code, 0);
  assert.match(help.stdout, /^Usage: shardwise doctor \[--json\]$/m);
});
