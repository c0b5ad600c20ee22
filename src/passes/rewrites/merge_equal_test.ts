import assert from "node:assert/strict";
import { float } from "../../graph/attributes.ts";
import { GraphBuilder, inlineData } from "../../graph/builder.ts";
import { isCall } from "../../graph/graph.ts";
import { verify } from "../../graph/verify.ts";
import { mergeEqual } from "./merge_equal.ts";

const TYPE = { dtype: "f32", shape: [2] } as const;

/** Calls of `x: f32[2]` and two constants of 1, with results. */
function graphOf(
  calls: readonly (readonly [output: string, op: string, inputs: string, alpha?: number])[],
  results: string,
) {
  const builder = new GraphBuilder("global", "g", new Map([["", 17]]));
  builder.placeholder({ name: "x", type: TYPE });
  for (const name of ["one", "uno"]) builder.getAttr(name, inlineData("f32", [], Float32Array.of(1)));
  for (const [output, op, inputs, alpha] of calls) {
    const attributes = alpha === undefined ? {} : { alpha: float(alpha) };
    builder.call({
      kind: "call_function",
      domain: "",
      op,
      inputs: inputs.split(","),
      outputs: [output],
      attributes,
    }, [{ name: output, type: TYPE }]);
  }
  const names = results.split(",");
  const graph = mergeEqual(builder.finish({ inputs: names, names }));
  verify(graph);
  return graph.nodes.filter(isCall).map((n) => `${n.outputs} = ${n.op}(${n.inputs})`);
}

Deno.test("equal calls of equal operands become one, through chains and constants of equal content", () => {
  const calls = [["a", "Add", "x,one"], ["b", "Add", "x,uno"], ["c", "Neg", "a"], ["d", "Neg", "b"], [
    "y",
    "Mul",
    "c,d",
  ]];
  assert.deepEqual(graphOf(calls as never, "y"), ["a = Add(x,one)", "c = Neg(a)", "y = Mul(c,c)"]);
});

Deno.test("calls whose attributes differ, random ones, and results stay apart", () => {
  const calls = [
    ["a", "Elu", "x", 1],
    ["b", "Elu", "x", 2],
    ["r", "RandomNormalLike", "x"],
    ["s", "RandomNormalLike", "x"],
    ["t", "Elu", "x", 2],
    ["y", "Sum", "a,b,r,s"],
  ];
  assert.equal(graphOf(calls as never, "y,t").length, 6);
});
