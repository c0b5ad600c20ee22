import assert from "node:assert/strict";
import { printBytes, printSeconds } from "./units.ts";

Deno.test("printSeconds() and printBytes() choose the unit, and nothing has none", () => {
  assert.deepEqual([0, 2.5e-7, 0.0012, 3].map(printSeconds), ["0 s", "0.250 µs", "1.20 ms", "3.00 s"]);
  assert.deepEqual([0, 999, 9408, 6e9].map(printBytes), ["0 B", "999 B", "9.41 kB", "6.00 GB"]);
});
