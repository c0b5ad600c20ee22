import assert from "node:assert/strict";
import { allowedCores, isAlive, ownIdentity, parseCores } from "./process_identity.ts";

Deno.test("lists of cores are read as the kernel writes them", () => {
  assert.deepEqual([...parseCores("0-3,8,10-11")], [0, 1, 2, 3, 8, 10, 11]);
  assert.deepEqual([...parseCores("")], []);
});

Deno.test({
  name: "this process is alive and may use some core; one that has ended is not, and may use none",
  ignore: Deno.build.os !== "linux",
  fn: async () => {
    assert.ok(isAlive(ownIdentity()));
    assert.ok(allowedCores(Deno.pid).size >= navigator.hardwareConcurrency);
    const child = new Deno.Command("true").spawn();
    await child.status;
    assert.ok(!isAlive({ pid: child.pid, startTime: 1 }));
    assert.equal(allowedCores(child.pid).size, 0);
  },
});
