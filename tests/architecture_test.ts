/** ARCHITECTURE.md prints what the code prints. */
import assert from "node:assert/strict";
import { ARCHITECTURE, architectureBlocks, fillBlocks } from "../tools/architecture_example.ts";

Deno.test("ARCHITECTURE.md is up to date (else: deno run -A tools/architecture_example.ts)", async () => {
  const text = await Deno.readTextFile(ARCHITECTURE);
  assert.equal(fillBlocks(text, await architectureBlocks()), text);
});

Deno.test("fillBlocks() complains about blocks that are missing or that nobody makes", () => {
  const blocks = new Map([["a", "A\n"]]);
  assert.equal(
    fillBlocks("<!-- example: a -->\nold<!-- end -->", blocks),
    "<!-- example: a -->\n\nA\n\n<!-- end -->",
  );
  assert.throws(() => fillBlocks("none", blocks), /no block a/);
  assert.throws(() => fillBlocks("<!-- example: b -->\n<!-- end -->", blocks), /"b": nobody makes it/);
});
