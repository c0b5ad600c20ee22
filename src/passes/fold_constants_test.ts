import assert from "node:assert/strict";
import { GraphBuilder, inlineData } from "../graph/builder.ts";
import { isCall, outputOf } from "../graph/graph.ts";
import { foldConstants } from "./fold_constants.ts";

Deno.test("foldConstants() reads through chains of Identity and keeps the one that names a result", () => {
  const type = { dtype: "f32", shape: [2] } as const;
  const builder = new GraphBuilder("global", "test", new Map([["", 17]]));
  builder.placeholder({ name: "x", type });
  builder.getAttr("w", inlineData("f32", [2], Float32Array.of(1, 2)));
  const call = (op: string, inputs: readonly string[], output: string) =>
    builder.call(
      { kind: "call_function", name: output, domain: "", op, inputs, outputs: [output], attributes: {} },
      [{ name: output, type }],
    );
  call("Identity", ["w"], "w2");
  call("Identity", ["w2"], "w3");
  call("Mul", ["x", "w3"], "y");
  call("Identity", ["y"], "result");
  const graph = foldConstants(builder.finish({ inputs: ["result"], names: ["result"] }));
  const calls = graph.nodes.filter(isCall);
  assert.deepEqual(calls.map((n) => [n.op, ...n.inputs]), [["Mul", "x", "w"], ["Identity", "y"]]);
  assert.deepEqual(outputOf(graph).inputs, ["result"]);
});
