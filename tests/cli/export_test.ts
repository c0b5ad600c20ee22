/** `shardwise export`, and what runs its folders and follows its plans. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { readTensors } from "../../src/formats/tensor_file.ts";
import { compareTensors } from "../../cli/compare.ts";
import { shardwise, testModel } from "../support/cli.ts";
import { REPOSITORY } from "../support/shared.ts";

const PROMPT = ["--prompt-ids", "24,79,85,53,55,36", "-m", "8"];
const CONTINUATION = "86 63 41 48 63 83 62 80\n";

Deno.test("a model that was exported runs on its ranks without planning, by its plan and by its annotations", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-export-" });
  try {
    const parts = join(folder, "parts"), out = join(folder, "out.safetensors");
    const made = await shardwise("export", testModel("llama"), "--tp", "3", "--out", parts);
    assert.equal(made.code, 0, made.stderr);
    assert.match(made.stdout, /^ {2}rank2\.onnx +/m);

    // A part alone is enough: the model is not there any more.
    const inputs = testModel("llama", "decode.inputs.safetensors");
    const ran = await shardwise("run", parts, "-i", inputs, "-o", out);
    assert.equal(ran.code, 0, ran.stderr);
    const expected = await readTensors(join(REPOSITORY, testModel("llama", "decode.expected.safetensors")));
    const differences = compareTensors(Object.fromEntries(await readTensors(out)), expected, {
      atol: 1e-4,
      rtol: 1e-4,
    });
    assert.ok(differences.length > 0 && differences.every(({ pass }) => pass), JSON.stringify(differences));

    const other = await shardwise("run", parts, "-n", "2", "-i", inputs, "-o", out);
    assert.equal(other.code, 64);
    assert.match(other.stderr, /was split for 3 ranks, not 2\nhint: pass --nproc 3/);

    for (const plan of ["plan.json", "model.onnx"]) {
      const by = await shardwise("generate", testModel("llama"), "-n", "3", ...PROMPT, "--plan", join(parts, plan));
      assert.equal(by.stdout, CONTINUATION, by.stderr);
    }
    const few = await shardwise(
      "generate",
      testModel("llama"),
      "-n",
      "2",
      ...PROMPT,
      "--plan",
      join(parts, "plan.json"),
    );
    assert.equal(few.code, 2, few.stderr);
    assert.match(few.stderr, /^error: Cannot use the plan of "main_graph" on 2 ranks: it is for 3$/m);
    const shown = await shardwise("plan", parts);
    assert.match(shown.stdout, /^main_graph on 3 ranks: /);

    Deno.copyFileSync(join(parts, "rank1.onnx"), join(parts, "rank0.onnx"));
    const mixed = await shardwise("run", parts, "-i", inputs, "-o", out);
    assert.equal(mixed.code, 2);
    assert.match(mixed.stderr, /it is not the part of rank 0 that plan\.json beside it tells of/);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});

Deno.test("shardwise export never writes over the model itself", async () => {
  const folder = testModel("mlp");
  const { code, stderr } = await shardwise("export", testModel("mlp", "model.onnx"), "--tp", "2", "--out", folder);
  assert.equal(code, 2);
  assert.match(stderr, /the model itself lies there/);
});

Deno.test("an encoder-decoder that was exported generates from its parts what it generates whole", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-export-" });
  try {
    const made = await shardwise("export", testModel("t5"), "--tp", "2", "--out", folder);
    assert.equal(made.code, 0, made.stderr);
    assert.match(made.stdout, /^ {2}encoder\/rank1\.onnx +/m);
    assert.match(made.stdout, /^ {2}first_step\/rank1\.onnx +/m);
    const { prompt, greedy } = JSON.parse(
      await Deno.readTextFile(join(REPOSITORY, testModel("t5", "generate.json"))),
    );
    const ids = ["--prompt-ids", prompt.join(","), "--decoder-ids", "0", "-m", "12"];
    const parts = await shardwise("generate", folder, ...ids);
    assert.equal(parts.stdout, greedy.slice(0, 12).join(" ") + "\n", parts.stderr);
    // A plan is the decoder's; the encoder beside it is planned anew.
    const by = await shardwise("generate", testModel("t5"), "-n", "2", "--plan", join(folder, "plan.json"), ...ids);
    assert.equal(by.stdout, parts.stdout, by.stderr);
    // A later export of another model leaves nothing of this one.
    const encoder = await shardwise("export", testModel("t5", "encoder_model.onnx"), "--tp", "2", "--out", folder);
    assert.equal(encoder.code, 0, encoder.stderr);
    assert.deepEqual([...Deno.readDirSync(folder)].filter((e) => e.isDirectory), []);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});
