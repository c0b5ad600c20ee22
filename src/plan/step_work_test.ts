import assert from "node:assert/strict";
import { parseGraph } from "../graph/text_parser.ts";
import { stepWork } from "./step_work.ts";

Deno.test("stepWork() counts the whole model's products, the rank's part of weights, and rows that are looked up", () => {
  const graph = parseGraph(
    `graph mlp : sharded {opset=17, shardwise=1} over 2 ranks
%ids = placeholder : i64[batch,3] @ R
%table = get_attr : f32[1000,48] @ R
%w = get_attr : f32[48,90] @ S(1;90:0-50|50-90)
%v = get_attr : f32[90,7] @ S(0;90:0-50|50-90)
%e = call_module shardwise.Embedding(%table, %ids) : f32[batch,3,48] @ R as wte
%h = call_module shardwise.Linear(%e, %w) : f32[batch,3,90] @ S(2;90:0-50|50-90) as fc1
%p = MatMul(%h, %v) : f32[batch,3,7] @ P(sum)
%y = all_reduce(%p) {reduction=sum} : f32[batch,3,7] @ R
output %y as "y"
`,
    { stage: "sharded" },
  );
  const sizes = new Map([["batch", 2]]), tokens = 6;
  const flops = 2 * tokens * 48 * 90 + 2 * tokens * 90 * 7;
  const bytes = (columns: number) => 4 * (tokens * 48 + 48 * columns + columns * 7);
  assert.deepEqual(stepWork(graph, { rank: 0, sizes }), { flops, weightBytes: bytes(50) });
  assert.deepEqual(stepWork(graph, { rank: 1, sizes }), { flops, weightBytes: bytes(40) });
  const held = stepWork(graph, { rank: 1, sizes, held: (dtype) => (dtype === "f32" ? "bf16" : dtype) });
  assert.equal(held.weightBytes, bytes(40) / 2);
});

Deno.test("stepWork() counts of a mixture the experts that tokens choose", () => {
  const graph = (tokens: number) =>
    parseGraph(
      `graph moe : sharded {opset=17, com.microsoft=1} over 1 ranks
%x = placeholder : f32[${tokens},32] @ R
%router = placeholder : f32[${tokens},8] @ R
%first = get_attr : f32[8,64,32] @ R
%second = get_attr : f32[8,32,64] @ R
%y = com.microsoft.MoE(%x, %router, %first, _, %second) {k=2} : f32[${tokens},32] @ R
output %y as "y"
`,
      { stage: "sharded" },
    );
  const all = 4 * 2 * 8 * 64 * 32, of = (tokens: number) => stepWork(graph(tokens), { rank: 0, sizes: new Map() });
  assert.deepEqual(of(1), { flops: 2 * 4 * 32 * 64, weightBytes: all / 4 });
  assert.equal(of(3).weightBytes, 3 * all / 4);
  assert.equal(of(100).weightBytes, all);
});
