import assert from "node:assert/strict";
import { heldCases } from "./held_cases.ts";
import type { VerifyCase } from "./job.ts";

const OUTPUTS: VerifyCase = {
  kind: "outputs",
  name: "llama decode",
  model: "m.onnx",
  inputs: "i",
  expected: "e",
  atol: 1e-4,
  rtol: 1e-4,
};
const GREEDY: VerifyCase = { kind: "greedy", name: "llama greedy", model: "m.onnx", prompt: [1], expected: [2] };
const FOUND = { cases: [OUTPUTS, GREEDY], skipped: [{ name: "other", reason: "absent" }] };

Deno.test("heldCases() compares no text in 16 bits", () => {
  for (const dtype of ["bf16", "fp16"] as const) {
    const { cases, skipped } = heldCases(FOUND, dtype);
    assert.deepEqual(cases, [OUTPUTS]);
    assert.deepEqual(skipped, [...FOUND.skipped, {
      name: "llama greedy",
      reason: `a text may be another one in ${dtype}`,
    }]);
  }
});

Deno.test("heldCases() leaves cases alone where floats keep their 32 bits, or their own dtype", () => {
  assert.equal(heldCases(FOUND, "fp32"), FOUND);
  assert.equal(heldCases(FOUND, undefined), FOUND);
});
