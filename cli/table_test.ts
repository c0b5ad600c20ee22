import assert from "node:assert/strict";
import { boxTable } from "./table.ts";

Deno.test("boxTable() fits columns to what stands in them, of several lines and over several columns", () => {
  const rows = [["a", 1], ["two\nlines", "x"], [{ span: 2, content: "over both columns" }]];
  assert.deepEqual(boxTable(["name", "n"], rows).split("\n"), [
    "┌───────┬───────────┐",
    "│ name  │ n         │",
    "├───────┼───────────┤",
    "│ a     │ 1         │",
    "│ two   │ x         │",
    "│ lines │           │",
    "│ over both columns │",
    "└───────┴───────────┘",
  ]);
});
