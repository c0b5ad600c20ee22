/** The documents print what the code prints. */
import assert from "node:assert/strict";
import { shardwise, testModel } from "./support/cli.ts";
import { fillBlocks, printedDocuments } from "../tools/print_documents.ts";

Deno.test("documents with printed blocks are up to date (else: deno run -A tools/print_documents.ts)", async () => {
  for (const { path, blocks } of await printedDocuments()) {
    const text = await Deno.readTextFile(path);
    assert.equal(fillBlocks(text, blocks), text, path);
  }
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

Deno.test("the README's plan is what `shardwise plan` prints", async () => {
  const command = `plan ${testModel("llama")} --tp 2`;
  const block = (await Deno.readTextFile("README.md")).split(`$ deno task shardwise ${command}\n`)[1]!.split("```")[0]!;
  const shown = block.split("\n").filter((line) => line !== "" && line !== "  …");
  const { stdout } = await shardwise(...command.split(" "));
  assert.deepEqual(shown, stdout.split("\n").filter((line) => shown.includes(line)));
});
