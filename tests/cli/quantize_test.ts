/** `--quantize` of the commands that make plans, in real processes. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { shardwise, testModel } from "../support/cli.ts";

const PROMPT = ["--prompt-ids", "24,79,85,53,55,36", "-m", "8"];
const QUANTIZE = ["--quantize", "int4:16:acc0", "--quantize", "lm_head=int8:16:acc0"];

Deno.test("a model in 4 bits generates the same ids on 1 and 2 ranks, and from the parts that export made of it", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-quantize-" });
  try {
    const alone = await shardwise("generate", testModel("llama"), ...PROMPT, ...QUANTIZE);
    assert.equal(alone.code, 0, alone.stderr);
    assert.match(alone.stdout, /^(\d+ ){7}\d+\n$/);
    const split = await shardwise("generate", testModel("llama"), "-n", "2", ...PROMPT, ...QUANTIZE);
    assert.equal(split.stdout, alone.stdout, split.stderr);
    const parts = join(folder, "parts");
    const made = await shardwise("export", testModel("llama"), "--tp", "2", "--out", parts, ...QUANTIZE);
    assert.equal(made.code, 0, made.stderr);
    const names = [...Deno.readDirSync(parts)].map(({ name }) => name);
    assert.ok(names.includes("rank1.bin") && !names.includes("model.onnx") && !names.includes("model.onnx.data"));
    const ran = await shardwise("generate", parts, ...PROMPT);
    assert.equal(ran.stdout, alone.stdout, ran.stderr);
    const again = await shardwise("generate", parts, ...PROMPT, ...QUANTIZE);
    assert.match(again.stderr, /--quantize has no effect on .*, which is split already/);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});

Deno.test("plan shows quantised weights and what became of each layer", async () => {
  const { code, stdout, stderr } = await shardwise(
    "plan",
    testModel("llama"),
    "--tp",
    "2",
    "--quantize",
    "int4,embed_tokens=int8:16",
    "--rewrites",
  );
  assert.equal(code, 0, stderr);
  assert.match(stdout, /lm_head\/MatMul +│ com\.microsoft\.MatMulNBits +│ column/);
  assert.match(stdout, /embed_tokens\/Gather +│ shardwise\.EmbeddingNBits +│ vocab/);
  assert.match(stdout, /quantise/);
});

Deno.test("a layer that --quantize does not know is named before a rank starts", async () => {
  const { code, stderr } = await shardwise("plan", testModel("llama"), "--tp", "2", "--quantize", "int4,lm_heat=int8");
  assert.equal(code, 2);
  assert.match(stderr, /No layer with a weight to quantise matches "lm_heat": did you mean "lm_head"/);
});
