import assert from "node:assert/strict";
import fc from "fast-check";
import {
  type Dim,
  dimAdd,
  dimDivide,
  dimFloorDiv,
  dimMul,
  dimSub,
  evalDim,
  parseDim,
  symbol,
  symbolsOf,
} from "./dim.ts";

const b = symbol("batch"), s = symbol("seq"), p = symbol("past");

Deno.test("equal polynomials print the same, whatever order they were built in", () => {
  assert.equal(dimAdd(p, s).toString(), dimAdd(s, p).toString());
  assert.equal(dimMul(dimAdd(p, s), b).toString(), "batch*past+batch*seq");
  assert.equal(dimSub(dimAdd(p, s), s).toString(), "past");
  assert.equal(dimSub(s, s), 0);
});

Deno.test("dimDivide() divides exactly or not at all", () => {
  assert.equal(dimDivide(dimMul(dimMul(b, s), 48), dimMul(b, 6))!.toString(), "8*seq");
  assert.equal(dimDivide(dimMul(dimAdd(p, s), 4), dimAdd(s, p)), 4);
  assert.equal(dimDivide(dimAdd(dimMul(s, 3), 1), 3), undefined);
  assert.equal(dimDivide(s, b), undefined);
});

Deno.test("dimFloorDiv() sees through the arithmetic of chunk()", () => {
  assert.equal(dimFloorDiv(dimAdd(dimMul(s, 3), 2), 3).toString(), "seq");
  assert.equal(dimFloorDiv(dimAdd(s, 1), 2).toString(), "floor(seq+1,2)");
  assert.equal(evalDim(dimFloorDiv(dimAdd(s, 1), 2), new Map([["seq", 6]])), 3);
});

Deno.test("parseDim() reads exporters' expressions and makes one symbol of anything else", () => {
  assert.equal(parseDim("past_sequence_length + sequence_length").toString(), "past_sequence_length+sequence_length");
  assert.equal(parseDim("6*batch").toString(), "6*batch");
  assert.equal(parseDim("1"), 1);
  assert.equal(parseDim("what is this?").toString(), "what_is_this_");
});

Deno.test("parseDim() reads back every printed size", () => {
  const leaf: fc.Arbitrary<Dim> = fc.oneof(fc.integer({ min: 0, max: 9 }), fc.constantFrom(b, s, p));
  const expr = fc.letrec<{ e: Dim }>((tie) => ({
    e: fc.oneof(
      { depthSize: "small" },
      leaf,
      fc.tuple(tie("e"), tie("e")).map(([x, y]) => dimAdd(x, y)),
      fc.tuple(tie("e"), tie("e")).map(([x, y]) => dimMul(x, y)),
      fc.tuple(tie("e"), tie("e")).map(([x, y]) => dimSub(x, y)),
      fc.tuple(tie("e"), fc.integer({ min: 1, max: 5 })).map(([x, y]) => dimFloorDiv(x, y)),
    ),
  })).e;
  fc.assert(fc.property(expr, (e) => {
    assert.equal(parseDim(e.toString()).toString(), e.toString());
    const bindings = new Map([["batch", 2], ["seq", 5], ["past", 3]]);
    assert.equal(evalDim(parseDim(e.toString()), bindings), evalDim(e, bindings));
    for (const name of symbolsOf(e)) assert.ok(bindings.has(name));
  }));
});
