import assert from "node:assert/strict";
import { fromNumbers } from "../src/core/host_tensor.ts";
import { compareTensors } from "./compare.ts";

const TOLERANCE = { atol: 0.1, rtol: 0.01 };

function compare(got: number[], expected: number[]) {
  const tensor = (values: number[]) => fromNumbers("f32", [values.length], values);
  return compareTensors({ y: tensor(got) }, new Map([["y", tensor(expected)]]), TOLERANCE)[0]!;
}

Deno.test("compareTensors() passes what is within atol + rtol * |expected|, element by element", () => {
  assert.equal(compare([0.0625, 201], [0, 200]).pass, true);
  assert.equal(compare([0.125, 200], [0, 200]).pass, false);
  assert.equal(compare([0, 203], [0, 200]).pass, false);
});

Deno.test("compareTensors() gives the largest absolute difference, and the relative one away from zero", () => {
  const { maxAbs, maxRel } = compare([0.0625, 201], [0, 200]);
  assert.equal(maxAbs, 1);
  assert.equal(maxRel, 0.005);
});

Deno.test("compareTensors() lets no NaN and no infinity pass that is not expected", () => {
  assert.equal(compare([NaN], [0]).pass, false);
  assert.equal(compare([Infinity], [0]).pass, false);
  assert.equal(compare([0], [NaN]).pass, false);
  assert.equal(compare([0], [Infinity]).pass, false);
  assert.equal(compare([-Infinity], [Infinity]).pass, false);
  assert.equal(compare([Infinity, NaN], [Infinity, NaN]).pass, true);
});

Deno.test("compareTensors() refuses other shapes, dtypes and names", () => {
  const y = fromNumbers("f32", [2], [1, 2]);
  const wrong = [fromNumbers("f32", [1, 2], [1, 2]), fromNumbers("f64", [2], [1, 2])];
  for (const got of wrong) {
    const [result] = compareTensors({ y: got }, new Map([["y", y]]), TOLERANCE);
    assert.equal(result!.pass, false);
    assert.match(result!.problem!, /expected f32\[2\]/);
  }
  const results = compareTensors({ z: y }, new Map([["y", y]]), TOLERANCE);
  assert.deepEqual(results.map(({ name, pass, problem }) => [name, pass, problem]), [
    ["y", false, "the output is missing"],
    ["z", false, "nobody expects this output"],
  ]);
});
