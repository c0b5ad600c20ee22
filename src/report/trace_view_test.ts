import assert from "node:assert/strict";
import type { Span } from "../trace/run_trace.ts";
import { traceView } from "./trace_view.ts";

function span(kind: Span["kind"], name: string, start: number, end: number, step: number): Span {
  return { kind, name, start, end, step };
}

Deno.test("traceView() means all steps but the first, and accounts for all of a step's time", () => {
  const step = (at: number, n: number) => [
    span("step", `step ${n}`, at, at + 10, n),
    span("compute", "m.layers.0.attn", at + 1, at + 3, n),
    span("waiting", "all_reduce x", at + 3, at + 4, n),
    span("collective", "all_reduce x", at + 4, at + 5, n),
    span("compute", "m.layers.0.mlp", at + 5, at + 9, n),
  ];
  const spans = [span("step", "step 0", 0, 90, 0), ...step(100, 1), ...step(120, 2)];
  const { flames: [flame], counted } = traceView("m", { ranks: [{ rank: 0, spans }], clockError: 0 });
  assert.deepEqual(counted, [1, 3]);
  assert.deepEqual(flame!.parts.map((p) => [p.kind, p.ms]), [["compute", 6], ["waiting", 1], ["collective", 1], [
    "other",
    2,
  ]]);
  const [block] = flame!.parts[0]!.parts;
  assert.equal(block!.name, "m.layers.0");
  assert.deepEqual(block!.parts.map((p) => [p.name, p.ms]), [["m.layers.0.attn", 2], ["m.layers.0.mlp", 4]]);
});
