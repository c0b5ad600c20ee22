import assert from "node:assert/strict";
import { PlanError } from "../core/errors.ts";
import { meshesOf, meshSize, parseMesh, printMesh } from "./mesh.ts";

Deno.test("parseMesh() reads axes in any order, and refuses others", () => {
  assert.deepEqual(parseMesh("tp=4, dp=2"), { dp: 2, tp: 4 });
  assert.deepEqual(parseMesh("dp=3"), { dp: 3, tp: 1 });
  assert.deepEqual(parseMesh("dp=2,tp=2,assume"), { dp: 2, tp: 2, assume: true });
  assert.equal(printMesh(parseMesh("tp=4")), "dp=1,tp=4");
  for (const text of ["", "pp=2", "dp=0", "dp=2,dp=2", "dp", "tp=-1"]) {
    assert.throws(() => parseMesh(text), PlanError, text);
  }
});

Deno.test("meshesOf() gives each way to arrange so many ranks", () => {
  assert.deepEqual(meshesOf(6).map(printMesh), ["dp=6,tp=1", "dp=3,tp=2", "dp=2,tp=3", "dp=1,tp=6"]);
  assert.ok(meshesOf(12).every((mesh) => meshSize(mesh) === 12));
});
