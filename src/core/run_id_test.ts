import assert from "node:assert/strict";
import { fileSafe, formatRunId, hash12, parseRunId, runIdOfShmName } from "./run_id.ts";

const PARTS = { pid: 812, startTime: "4711", namespace: "4026531836", random: "c8bd29a4" };

Deno.test("a run id survives formatting and parsing, alone and in the name of a shared-memory object", () => {
  assert.deepEqual(parseRunId(formatRunId(PARTS)), PARTS);
  assert.deepEqual(runIdOfShmName(`shardwise-${formatRunId(PARTS)}-arena-0`), PARTS);
});

Deno.test("names of other programs and of schedulers' jobs carry no run id", () => {
  for (
    const name of [
      "sem.x",
      "shardwise-slurm-7-2-0-arena",
      "shardwise-onnx-32a6510d33ea628b",
      "shardwise-0-1-2-abcd-x",
      "shardwise-",
    ]
  ) {
    assert.equal(runIdOfShmName(name), undefined, name);
  }
});

Deno.test("fileSafe() leaves nothing that could leave a folder", () => {
  assert.equal(fileSafe("../a b/ü"), ".._a_b__");
});

Deno.test("hash12() stays within 12 bits and tells texts apart", () => {
  const values = new Set(Array.from({ length: 100 }, (_, i) => hash12(`job ${i}`)));
  for (const value of values) assert.ok(value >= 0 && value < 4096);
  assert.ok(values.size > 90);
});
