/** `shardwise run`, from files to files, as a user calls it. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fromNumbers, toNumbers } from "../../src/core/host_tensor.ts";
import { exportOnnx } from "../../src/formats/export_onnx.ts";
import { readTensors, writeTensors } from "../../src/formats/tensor_file.ts";
import { parseGraph } from "../../src/graph/text_parser.ts";
import { compareTensors } from "../../cli/compare.ts";
import { shardwise, testModel } from "../support/cli.ts";
import { REPOSITORY } from "../support/shared.ts";

const MODEL = testModel("llama", "model.onnx");
const INPUTS = testModel("llama", "decode.inputs.safetensors");

/** A model whose samples are not independent. */
const MIXING = `graph mixing : global {opset=17}
%x = placeholder : f32[batch,4]
%y = Softmax(%x) {axis=0} : f32[batch,4]
output %y as "y"
`;

async function inTemp(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-run-" });
  try {
    await body(folder);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

async function requireExpected(path: string): Promise<void> {
  const expected = await readTensors(join(REPOSITORY, testModel("llama", "decode.expected.safetensors")));
  const differences = compareTensors(Object.fromEntries(await readTensors(path)), expected, { atol: 1e-4, rtol: 1e-4 });
  assert.ok(differences.length > 0 && differences.every(({ pass }) => pass), JSON.stringify(differences));
}

Deno.test("shardwise run writes all outputs of a model split over 3 ranks", async () => {
  await inTemp(async (folder) => {
    const out = join(folder, "out.safetensors");
    const { code, stdout, stderr } = await shardwise(
      "run",
      MODEL,
      "--nproc",
      "3",
      "--inputs",
      INPUTS,
      "--outputs",
      out,
    );
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^logits f32\[2,1,97\]$/m);
    await requireExpected(out);
  });
});

Deno.test("shardwise run reads and writes folders of .npy files", async () => {
  await inTemp(async (folder) => {
    const [arrays, results] = [join(folder, "arrays") + "/", join(folder, "results") + "/"];
    await writeTensors(arrays, await readTensors(join(REPOSITORY, INPUTS)));
    const { code, stderr } = await shardwise("run", MODEL, "-n", "2", "-i", arrays, "-o", results);
    assert.equal(code, 0, stderr);
    await requireExpected(results);
  });
});

Deno.test("shardwise run says once, from one rank, which input is wrong and what the model takes", async () => {
  await inTemp(async (folder) => {
    const right = await readTensors(join(REPOSITORY, INPUTS));
    const wrong: [string, (inputs: typeof right) => void, RegExp][] = [
      ["name", (t) => t.set("input_idz", t.get("input_ids")!), /"input_idz".*did you mean "input_ids"/],
      ["missing", (t) => t.delete("attention_mask"), /"?attention_mask"?/],
      ["dtype", (t) => t.set("input_ids", fromNumbers("f32", [2, 1], [1, 2])), /input_ids.*f32/],
      ["shape", (t) => t.set("input_ids", fromNumbers("i64", [2], [1, 2])), /input_ids.*\[2\]/],
      [
        "sizes",
        (t) => t.set("past_key_values.0.key", fromNumbers("f32", [2, 2, 5, 7], Array(140).fill(0))),
        /past_key_values.0.key/,
      ],
    ];
    for (const [what, change, message] of wrong) {
      const inputs = new Map(right);
      change(inputs);
      const path = join(folder, `${what}.safetensors`);
      await writeTensors(path, inputs);
      const { code, stderr } = await shardwise(
        "run",
        MODEL,
        "-n",
        "2",
        "-i",
        path,
        "-o",
        join(folder, "out.safetensors"),
      );
      assert.equal(code, 2, `${what}: ${stderr}`);
      assert.match(stderr, message, what);
      assert.equal(stderr.match(/^error: /gm)?.length, 1, `${what} is said once: ${stderr}`);
      assert.doesNotMatch(stderr, /^\s+at /m, `${what} has no stack`);
    }
  });
});

Deno.test("shardwise run shares a batch among groups of ranks on a mesh, and refuses what it cannot prove", async () => {
  await inTemp(async (folder) => {
    const out = join(folder, "out.safetensors"), bert = testModel("bert");
    const run = (model: string, inputs: string, ...args: string[]) =>
      shardwise("run", model, "--inputs", inputs, "--outputs", out, ...args);
    const { code, stderr } = await run(bert, join(bert, "batch.inputs.safetensors"), "--mesh", "dp=2,tp=2");
    assert.equal(code, 0, stderr);
    const got = Object.fromEntries(await readTensors(out));
    const expected = await readTensors(join(REPOSITORY, bert, "batch.expected.safetensors"));
    for (const o of compareTensors(got, expected, { atol: 1e-4, rtol: 1e-4 })) assert.ok(o.pass, JSON.stringify(o));
    // Two rows of a decoder whose masks come from row numbers: one each.
    const decoder = await run(MODEL, INPUTS, "--mesh", "dp=2,tp=1");
    assert.equal(decoder.code, 0, decoder.stderr);
    await requireExpected(out);

    const mixing = join(folder, "mixing.onnx"), rows = join(folder, "rows.safetensors");
    Deno.writeFileSync(mixing, exportOnnx(parseGraph(MIXING, { stage: "global" })));
    await writeTensors(rows, new Map([["x", fromNumbers("f32", [2, 4], [1, 2, 3, 4, 5, 6, 7, 8])]]));
    const refused = await run(mixing, rows, "--mesh", "dp=2,tp=1");
    assert.equal(refused.code, 2, refused.stderr);
    assert.match(refused.stderr, /Cannot share the batch "batch".*Softmax/);
    // Who says so is believed: each row then has a softmax of its own.
    const assumed = await run(mixing, rows, "--mesh", "dp=2,tp=1,assume");
    assert.equal(assumed.code, 0, assumed.stderr);
    assert.deepEqual(Array.from(toNumbers((await readTensors(out)).get("y")!)), Array(8).fill(1));
  });
});
