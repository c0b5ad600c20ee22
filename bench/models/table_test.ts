import { deepEqual, equal } from "node:assert/strict";
import { milliseconds, printTable } from "./table.ts";

Deno.test("milliseconds() keeps three digits", () => {
  deepEqual([1234.5, 12.345, 1.2345].map(milliseconds), ["1235", "12.3", "1.23"]);
});

Deno.test("printTable() ends numbers flush, plain or as Markdown", () => {
  const table = { head: ["ms", "ours"], rows: [["load", "7"], ["decode 128", "12.5"]] };
  equal(printTable(table, false), "ms           ours\nload            7\ndecode 128   12.5");
  equal(
    printTable(table, true),
    "| ms         | ours |\n| ---------- | ---: |\n| load       |    7 |\n| decode 128 | 12.5 |",
  );
});
