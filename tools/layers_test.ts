import assert from "node:assert/strict";
import { offence, roomOf } from "./layers.ts";

Deno.test("roomOf() knows rooms, the root of src, and what is free", () => {
  assert.equal(roomOf("src/graph/text.ts"), "src/graph");
  assert.equal(roomOf("src/runtime/comm/shm.ts"), "src/runtime");
  assert.equal(roomOf("src/session.ts"), "src");
  assert.equal(roomOf("cli/ranks/worker.ts"), "cli");
  assert.equal(roomOf("tests/support/shared.ts"), undefined);
});

Deno.test("offence() lets files import downward and within their room", () => {
  for (
    const [from, to] of [
      ["src/ops/matmul.ts", "src/graph/types.ts"],
      ["src/ops/matmul.ts", "src/ops/def.ts"],
      ["src/runtime/cpu/engine.ts", "src/ffi/libc.ts"],
      ["mod.ts", "src/session.ts"],
      ["cli/main.ts", "src/session.ts"],
      ["cli/main.ts", "deno.json"],
      ["cli/job.ts", "launcher/launch.ts"],
      ["launcher/main.ts", "src/core/errors.ts"],
      ["tests/a.ts", "launcher/main.ts"],
    ] as const
  ) assert.equal(offence({ from, to }), undefined, `${from} → ${to}`);
});

Deno.test("offence() names upward and sideways imports, and the rules of ffi and launcher", () => {
  const says = (from: string, to: string, pattern: RegExp) => assert.match(offence({ from, to }) ?? "", pattern);
  says("src/graph/text.ts", "src/ops/def.ts", /src\/graph is level 1, src\/ops level 2/);
  says("src/plan/plan.ts", "src/formats/npy.ts", /level 3.*level 3/);
  says("src/program/program.ts", "src/ffi/libc.ts", /only src\/runtime imports src\/ffi/);
  says("launcher/main.ts", "src/graph/graph.ts", /launcher sees only src\/core/);
  says("src/core/dim.ts", "tests/support/shared.ts", /in no room/);
  says("src/unknown/a.ts", "src/core/dim.ts", /src\/unknown has no level/);
});
