import assert from "node:assert/strict";
import { PlanError } from "../../core/errors.ts";
import { parseQuantize, parseWeightFormat } from "./weight_format.ts";

Deno.test("formats are read with their details", () => {
  const int4 = { bits: 4, block: 32, symmetric: true, accuracyLevel: 4 };
  assert.deepEqual(parseWeightFormat("int4"), int4);
  assert.deepEqual(parseWeightFormat("int8:128:asym:acc0"), {
    bits: 8,
    block: 128,
    symmetric: false,
    accuracyLevel: 0,
  });
  assert.deepEqual(parseWeightFormat("int4:sym:64"), { ...int4, block: 64 });
  assert.equal(parseWeightFormat("none"), undefined);
});

Deno.test("formats by layer keep their order, of which the last match wins", () => {
  const formats = parseQuantize(["int4", "lm_head=int8", "layers.*.mlp=none"]);
  assert.deepEqual(Object.entries(formats), [["*", "int4"], ["lm_head", "int8"], ["layers.*.mlp", "none"]]);
});

for (
  const [words, message] of [
    [["int5"], /"int5" is no format: did you mean "int4"\?/],
    [["int4:48"], /"48" is no detail/],
    [["none:32"], /none has no details/],
    [["=int4"], /layer's name is missing/],
    [["int4", "lm_head=q8_0"], /"q8_0" is no format/],
    [[""], /"" is no format/],
  ] as const
) {
  Deno.test(`--quantize ${words.join()} is refused`, () => {
    assert.throws(() => parseQuantize(words), (error) => error instanceof PlanError && message.test(error.message));
  });
}
