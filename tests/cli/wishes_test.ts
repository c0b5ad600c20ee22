/** Patterns of layers on a model of several graphs: an encoder, and a merged decoder's first and later steps. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { shardwise, testModel } from "../support/cli.ts";

/** Layers that only one graph has: the encoder's block has its MLP as layer 1, the decoder's as layer 2. */
const ENCODER_ONLY = "block.*.layer.1.DenseReluDense.wi", DECODER_ONLY = "block.*.layer.2.DenseReluDense.wi";
/** Keys of the encoder's output, which a decoder computes once: in its first step. */
const FIRST_STEP_ONLY = "block.*.EncDecAttention.k";
const NOWHERE = "block.*.layer.1.DenseReluDense.wii";

const asked = (pattern: string) => ["--override", `${pattern}=replicated`, "--quantize", `${pattern}=int8:16`];

Deno.test("generate takes patterns that name layers of the encoder, of the decoder, or of its first step alone", async () => {
  const generate = (...more: string[]) =>
    shardwise("generate", testModel("t5"), "--prompt-ids", "24,79,85,53", "-m", "4", "-n", "2", ...more);
  const plain = await generate();
  for (const pattern of [ENCODER_ONLY, DECODER_ONLY, FIRST_STEP_ONLY]) {
    const { code, stdout, stderr } = await generate("--override", `${pattern}=replicated`);
    assert.equal(code, 0, stderr);
    assert.equal(stdout, plain.stdout, pattern);
  }
  // Rounded as it may be, it is a text: the decoder has nothing to say against what the encoder is asked.
  assert.equal((await generate(...asked(ENCODER_ONLY))).code, 0);
  const { code, stderr } = await generate(...asked(NOWHERE));
  assert.equal(code, 2);
  assert.match(
    stderr,
    /No layer matches "block\.\*\.layer\.1\.DenseReluDense\.wii": did you mean "block\.0\.layer\.1\./,
  );
});

Deno.test("plan of a folder takes patterns for its other graphs, and does what those for its own say", async () => {
  const plan = (model: string, pattern: string) => shardwise("plan", model, "--tp", "2", ...asked(pattern));
  const folder = testModel("t5");
  for (const pattern of [ENCODER_ONLY, FIRST_STEP_ONLY]) {
    const { code, stdout, stderr } = await plan(folder, pattern);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /layer\.2\/DenseReluDense\/wi\/MatMul +│ shardwise\.Linear +│ column/);
  }
  const own = await plan(folder, DECODER_ONLY);
  assert.match(own.stdout, /layer\.2\/DenseReluDense\/wi\/MatMul +│ com\.microsoft\.MatMulNBits +│ replicated/);
  // Near names come from all graphs.
  assert.match((await plan(folder, NOWHERE)).stderr, /did you mean "block\.0\.layer\.1\.DenseReluDense\.wi"/);
  // A file is one graph, and a merged decoder's two.
  const decoder = testModel("t5", "decoder_model_merged.onnx");
  assert.equal((await plan(decoder, FIRST_STEP_ONLY)).code, 0);
  assert.match((await plan(decoder, ENCODER_ONLY)).stderr, /No layer matches/);
});

Deno.test("export asks each graph for what it has", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-wishes-" });
  try {
    const parts = (name: string) => join(folder, name);
    const made = (name: string, ...more: string[]) =>
      shardwise("export", testModel("t5"), "--tp", "2", "--out", parts(name), ...more);
    const both = ["--override", `${ENCODER_ONLY}=row`, "--override", `${FIRST_STEP_ONLY}=replicated`];
    const { code, stderr } = await made("wished", ...both);
    assert.equal(code, 0, stderr);
    const weights = (graph: string) =>
      JSON.parse(Deno.readTextFileSync(join(parts("wished"), graph, "plan.json"))).layers as {
        readonly name: string;
        readonly kind: string;
      }[];
    const kinds = (
      graph: string,
      name: string,
    ) => [...new Set(weights(graph).filter((l) => l.name.includes(name)).map((l) => l.kind))];
    assert.deepEqual(kinds("encoder", "DenseReluDense/wi"), ["row"]);
    assert.deepEqual(kinds("first_step", "EncDecAttention/k"), ["replicated"]);
    assert.deepEqual(kinds("", "DenseReluDense/wi"), ["column"]);
    const nothing = await made("nothing", ...asked(NOWHERE));
    assert.equal(nothing.code, 2);
    assert.match(nothing.stderr, /No layer matches/);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});

Deno.test("run and verify of a folder take patterns for graphs that they do not run", async () => {
  const folder = testModel("t5"), out = Deno.makeTempFileSync({ suffix: ".safetensors" });
  try {
    const run = (model: string, pattern: string) => {
      const inputs = join(folder, "decoder-past-single.inputs.safetensors");
      return shardwise("run", model, "-i", inputs, "-o", out, "-n", "2", "--override", `${pattern}=replicated`);
    };
    for (const pattern of [ENCODER_ONLY, DECODER_ONLY]) {
      const { code, stderr } = await run(folder, pattern);
      assert.equal(code, 0, stderr);
    }
    assert.match((await run(folder, NOWHERE)).stderr, /No layer matches/);
    assert.match((await run(testModel("t5", "decoder_model_merged.onnx"), ENCODER_ONLY)).stderr, /No layer matches/);
    const verify = (pattern: string) => shardwise("verify", folder, "-n", "2", "--override", `${pattern}=replicated`);
    const encoder = await verify(ENCODER_ONLY);
    assert.equal(encoder.code, 0, encoder.stdout + encoder.stderr);
    assert.match(encoder.stdout, /7 passed, 0 failed/);
    const nothing = await verify(NOWHERE);
    assert.equal(nothing.code, 1);
    assert.match(nothing.stdout, /0 passed, 7 failed/);
  } finally {
    Deno.removeSync(out);
  }
});
