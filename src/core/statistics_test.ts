import { deepEqual, equal, ok } from "node:assert/strict";
import { median, spreadOver } from "./statistics.ts";

Deno.test("median() takes the middle value, or the mean of the two middle ones", () => {
  equal(median([9, 1, 5]), 5);
  equal(median([1, 100, 3, 2]), 2.5);
  ok(Number.isNaN(median([])));
});

Deno.test("spreadOver() gives median, least and largest", () => {
  deepEqual(spreadOver([10, 9, 2]), { median: 9, least: 2, largest: 10 });
});
