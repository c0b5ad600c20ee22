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
      new RegExp(`/model/layers\\.0-1/${layer}/MatMul +│ \\S+ +│ row +│ S\\(0\\) .*│ all_reduce 192 B/token`),
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

Deno.test("shardwise plan --explain says why a layer is what it is, and what the alternatives cost", async () => {
  const { code, stdout, stderr } = await shardwise(
    ...["plan", testModel("llama"), "--tp", "2", "--explain", "layers.*.mlp.down_proj"],
  );
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^\/model\/layers\.0\/mlp\/down_proj\/MatMul: row; the next best, /m);
  assert.match(stdout, /^likewise \/model\/layers\.1\/mlp\/down_proj\/MatMul$/m);
  assert.match(stdout, /│ ► +│ row +│ S\(0\) /);
  assert.match(stdout, /│ +│ replicated +│ R .*│ \+\d/);
  const misspelt = await shardwise("plan", testModel("llama"), "--tp", "2", "--explain", "layers.0.mlp.down_porj");
  assert.notEqual(misspelt.code, 0);
  assert.match(misspelt.stderr, /No layer matches .*: did you mean "layers\.0\.mlp\.down_proj"\?/);
});

Deno.test("shardwise plan --compare prices plans by rules beside the solver's", async () => {
  const { code, stdout, stderr } = await shardwise(
    ...["plan", testModel("gpt2"), "--tp", "2", "--compare", "megatron,replicated,rowwise", "--json"],
  );
  assert.equal(code, 0, stderr);
  const { comparison } = JSON.parse(stdout);
  assert.deepEqual(comparison.map((p: { name: string }) => p.name), ["solver", "megatron", "replicated", "rowwise"]);
  assert.deepEqual(comparison.map((p: { collectives: number }) => p.collectives === 0), [false, false, true, false]);
});

Deno.test("shardwise plan --compare says why a faster plan is not the search's, and an override leaves no price of not splitting", async () => {
  const { code, stdout, stderr } = await shardwise(
    ...["plan", testModel("llama"), "--tp", "2", "--compare", "replicated", "--override", "layers.*.mlp.up_proj=row"],
  );
  assert.equal(code, 0, stderr);
  assert.match(
    stdout,
    /^replicated takes \d+ µs less, and [\d.]+ times the memory of a rank: the search prices both$/m,
  );
  const { layers } = JSON.parse(
    (await shardwise("plan", testModel("llama"), "--tp", "2", "--override", "layers.*.mlp.up_proj=row", "--json"))
      .stdout,
  ) as { layers: { name: string; priceOfNotSplitting?: number }[] };
  const up = layers.filter((l) => l.name.includes("up_proj"));
  assert.equal(up.length, 2);
  for (const layer of up) assert.ok(!Object.hasOwn(layer, "priceOfNotSplitting"));
});

Deno.test("shardwise plan --override decides what layers become, and refuses what cannot be", async () => {
  const plan = (...args: string[]) => shardwise("plan", testModel("llama"), "--tp", "2", ...args);
  const { stdout } = await plan("--override", "layers.*.mlp.gate_proj=replicated", "--json");
  const kinds = JSON.parse(stdout).layers.filter((l: { name: string }) => l.name.includes("gate_proj"));
  assert.deepEqual(kinds.map((l: { kind: string }) => l.kind), ["replicated", "replicated"]);
  assert.match(
    (await plan("--override", "lm_head=vocab")).stderr,
    /Cannot make layer ".*lm_head.*" vocab: it is neither/,
  );
  assert.match((await plan("--override", "lm_haed=row")).stderr, /did you mean "lm_head"\?/);
});

Deno.test("shardwise plan --memory-per-rank keeps the cap, or says what would fit", async () => {
  const plan = (...args: string[]) => shardwise("plan", testModel("llama"), "--tp", "2", "--context", "64", ...args);
  const roomy = await plan("--memory-per-rank", "1MB", "--json");
  assert.equal(roomy.code, 0, roomy.stderr);
  assert.ok(JSON.parse(roomy.stdout).cost.memory.total <= 1e6);
  const { code, stderr } = await plan("--memory-per-rank", "0.1MB");
  assert.notEqual(code, 0);
  assert.match(
    stderr,
    /within 100 kB a rank: at least 115 kB are needed .*\nhint: it fits on 3 ranks, or with a cap of 115 kB on 2/,
  );
});

Deno.test("shardwise plan says of which part of an encoder-decoder the plan is", async () => {
  const { code, stderr } = await shardwise("plan", testModel("t5"), "--tp", "2");
  assert.equal(code, 0, stderr);
  assert.match(stderr, /the encoder: shardwise plan tests\/data\/models\/t5\/encoder_model\.onnx --tp 2$/m);
  const encoder = await shardwise("plan", testModel("t5", "encoder_model.onnx"), "--tp", "2");
  assert.equal(encoder.stderr, "");
});
