/** Works: asked, waited for, given up, taken back, cancelled. */
import assert from "node:assert/strict";
import { runRanks } from "../support/ranks.ts";

Deno.test("a work can be asked, waited for a while, given up, taken back and cancelled", async () => {
  const results = await runRanks(2, new URL("./programs/works.ts", import.meta.url), { timeoutMs: 60_000 });
  for (const { stdout } of results) assert.equal(stdout, "done\n");
});
