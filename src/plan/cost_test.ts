import assert from "node:assert/strict";
import { dimAdd, symbol } from "../core/dim.ts";
import { GraphBuilder } from "../graph/builder.ts";
import { nominalSizes } from "./cost.ts";

Deno.test("nominalSizes() lengthens the past, and takes what the input leaves open of a head from the output", () => {
  const [batch, past, open] = [symbol("batch"), symbol("past"), symbol("kv_cache_dim")];
  const builder = new GraphBuilder("global", "step", new Map([["", 20]]));
  builder.placeholder({ name: "past_key", type: { dtype: "f32", shape: [batch, 2, past, open] } });
  const present = {
    name: "present",
    type: { dtype: "f32", shape: [batch, 2, dimAdd(past, symbol("new")), 16] },
  } as const;
  builder.call({
    kind: "call_function",
    domain: "",
    op: "Extend",
    inputs: ["past_key"],
    outputs: ["present"],
    attributes: {},
  }, [
    present,
  ]);
  const graph = builder.finish({ inputs: ["present"], names: ["present"] }, [{ input: "past_key", output: 0 }]);
  assert.deepEqual(Object.fromEntries(nominalSizes(graph, {}, 5)), { past: 5, new: 1, kv_cache_dim: 16, batch: 1 });
});
