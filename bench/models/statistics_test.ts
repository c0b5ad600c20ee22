import { deepEqual, equal, ok } from "node:assert/strict";
import { median, spreadOver } from "./statistics.ts";
import { milliseconds, printTable } from "./table.ts";

Deno.test("median() takes the middle value, or the mean of the two middle ones", () => {
  equal(median([9, 1, 5]), 5);
  equal(median([1, 100, 3, 2]), 2.5);
  ok(Number.isNaN(median([])));
});

Deno.test("spreadOver() gives median, least and largest", () => {
  deepEqual(spreadOver([10, 9, 2]), { median: 9, least: 2, largest: 10 });
});

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
