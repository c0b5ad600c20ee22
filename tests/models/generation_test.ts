/**
 * Beam search, batches and penalties on real models: against what transformers gives (tests/data/generation/beams.json, made by
 * tools/beam_reference.py), and against each other.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { type LoadedFolder, loadModelFolder } from "../../src/folder_session.ts";
import { LocalCommunicator } from "../../src/runtime/comm/local.ts";
import { shardwise, testModel } from "../support/cli.ts";
import { REPOSITORY, sharedOrSkip } from "../support/shared.ts";

interface BeamCase {
  readonly model: string;
  readonly prompt: number[];
  readonly ends: number[];
  readonly search: {
    readonly num_beams: number;
    readonly length_penalty?: number;
    readonly early_stopping?: boolean | "never";
    readonly repetition_penalty?: number;
  };
  readonly ids: number[][];
  readonly scores: number[];
}

const CASES: BeamCase[] = JSON.parse(
  Deno.readTextFileSync(join(REPOSITORY, "tests/data/generation/beams.json")),
);
const FOLDERS = { llama: join(REPOSITORY, testModel("llama", "")), bart: sharedOrSkip("models/seq2seq/bart") };

async function check(model: LoadedFolder, c: BeamCase): Promise<void> {
  const label = JSON.stringify({ prompt: c.prompt, ends: c.ends, ...c.search });
  const { num_beams: beams, length_penalty, early_stopping, repetition_penalty } = c.search;
  const common = { maxNewTokens: 12, endIds: c.ends };
  if (beams === 1) {
    assert.deepEqual(await Array.fromAsync(model.generate(c.prompt, common)), c.ids[0], label);
    return;
  }
  const found = await model.beamSearch(c.prompt, {
    ...common,
    beams,
    lengthPenalty: length_penalty,
    earlyStopping: early_stopping,
    repetitionPenalty: repetition_penalty,
  });
  assert.deepEqual(found.map(({ ids }) => ids), c.ids, label);
  // Their sums are of float32 numbers, and written with 5 digits.
  found.forEach(({ score }, i) => assert.ok(Math.abs(score - c.scores[i]!) < 1e-3, `${label}: ${score}`));
}

for (const [name, folder] of Object.entries(FOLDERS)) {
  if (folder === undefined) continue;
  Deno.test(`beam search on ${name} finds the texts and scores that transformers finds`, async () => {
    await using comm = new LocalCommunicator();
    await using model = await loadModelFolder(folder, { comm });
    const cases = CASES.filter((c) => c.model === name);
    assert.ok(cases.length >= 20, `only ${cases.length} cases`);
    assert.ok(cases.some((c) => c.ids.some((ids) => ids.length < 12)), "some text ends before the limit");
    for (const c of cases) await check(model, c);
  });
}

const PROMPTS = [[24, 79, 85, 53, 55, 36], [5, 1, 90], [33]];

for (const name of ["llama", "bloom"]) {
  Deno.test(`${name} gives in a batch of padded prompts the ids that it gives each alone, sampled ones too`, async () => {
    await using comm = new LocalCommunicator();
    await using model = await loadModelFolder(join(REPOSITORY, testModel(name, "")), { comm });
    for (
      const sampling of [{}, { temperature: 0.9, topK: 20, topP: 0.95, minP: 0.02, repetitionPenalty: 1.2, seed: 4 }]
    ) {
      const options = { sampling, maxNewTokens: 10, endIds: [77, 48] };
      const alone = [];
      for (const prompt of PROMPTS) alone.push(await Array.fromAsync(model.generate(prompt, options)));
      const steps = await Array.fromAsync(model.generateBatch(PROMPTS, options));
      const together = PROMPTS.map((_, i) => steps.flatMap((s) => s[i] ?? []));
      assert.deepEqual(together, alone);
    }
  });
}

Deno.test("T5 gives in a batch of prompts of different lengths the ids that it gives each alone", async () => {
  await using comm = new LocalCommunicator();
  await using model = await loadModelFolder(join(REPOSITORY, testModel("t5", "")), { comm });
  const options = { maxNewTokens: 8, endIds: [] }, prompts = [[65, 15, 95, 76], [3, 44]];
  const alone = [];
  for (const prompt of prompts) alone.push(await Array.fromAsync(model.generate(prompt, options)));
  const steps = await Array.fromAsync(model.generateBatch(prompts, options));
  assert.deepEqual(prompts.map((_, i) => steps.map((s) => s[i])), alone);
});

Deno.test("shardwise generate gives the same ids at 1 and 3 ranks: beams, batches, samples, encoder and decoder", async () => {
  const calls = [
    [
      testModel("llama", ""),
      "--prompt-ids",
      "24,79,85;5",
      "--num-beams",
      "3",
      "--length-penalty",
      "0.5",
      "--eos",
      "77",
    ],
    [testModel("t5", ""), "--prompt-ids", "65,15,95", "--temperature", "0.8", "--min-p", "0.05", "--seed", "3"],
  ];
  for (const call of calls) {
    const run = async (ranks: string) => {
      const { code, stdout, stderr } = await shardwise("generate", ...call, "-m", "8", "--nproc", ranks);
      assert.equal(code, 0, stderr);
      return stdout;
    };
    const one = await run("1");
    const lines = call.includes("24,79,85;5") ? 2 : 1;
    assert.match(one, new RegExp(`^(\\d+( \\d+)*\\n){${lines}}$`));
    assert.equal(await run("3"), one, call.join(" "));
  }
});
