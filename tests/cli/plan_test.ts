/** `shardwise plan`: the table and its JSON. */
import assert from "node:assert/strict";
import { shardwise, testModel } from "../support/cli.ts";

Deno.test("shardwise plan shows Megatron's plan: column, row, vocab, two all-reduces a layer", async () => {
  const { code, stdout, stderr } = await shardwise("plan", testModel("llama"), "--tp", "2");
  assert.equal(code, 0, stderr);
  assert.match(stdout, /row-parallel +model\.layers\.0-1\.self_attn\.o_proj, model\.layers\.0-1\.mlp\.down_proj$/m);
  assert.match(stdout, /vocab-parallel +model\.embed_tokens$/m);
  for (const layer of ["self_attn/o_proj", "mlp/down_proj"]) {
    assert.match(
      stdout,
      new RegExp(`/model/layers\\.1/${layer}/MatMul +│ \\S+ +│ row +│ S\\(0\\) .*│ all_reduce 192 B/token`),
    );
  }
  assert.match(stdout, /^one step, estimated: /m);
});

Deno.test("shardwise plan --json gives layers, placements, reshards and costs as data", async () => {
  const { code, stdout, stderr } = await shardwise("plan", testModel("llama", "model.onnx"), "--tp", "3", "--json");
  assert.equal(code, 0, stderr);
  const plan = JSON.parse(stdout);
  assert.equal(plan.ranks, 3);
  const gate = plan.layers.find((l: { name: string }) => l.name === "/model/layers.0/mlp/gate_proj/MatMul");
  assert.equal(gate.kind, "column");
  assert.equal(gate.weights[0].bytes, 48 * 90 * 4);
  assert.equal(gate.weights[0].bytesPerRank, 48 * 30 * 4);
  assert.ok(gate.priceOfNotSplitting > 0);
  assert.ok(plan.reshards.length > 0 && plan.cost.total > 0);
  assert.equal(Object.hasOwn(plan.placements, "logits"), true);
});

Deno.test("shardwise plan on one rank has no collectives", async () => {
  const { stdout } = await shardwise("plan", testModel("gpt2"), "--tp", "1", "--json");
  assert.deepEqual(JSON.parse(stdout).collectives, []);
});
