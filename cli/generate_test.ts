import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { ModelFolder } from "../src/generate/model_folder.ts";
import { parseCommand } from "./command.ts";
import { generate, generateJob, samplingAdvice, speedLine } from "./generate.ts";

const DEMO = ModelFolder.open(fileURLToPath(new URL("../examples/demo", import.meta.url)));

function job(...args: string[]) {
  return generateJob(parseCommand(generate, ["model", ...args]), DEMO);
}

Deno.test("generateJob() turns a prompt into ids and prints text", () => {
  const { job: made, echo } = job("--prompt", "In the", "--echo", "--max-new-tokens", "5");
  assert.deepEqual(made.prompts, [[21, 50, 2, 56, 44, 41]]);
  assert.equal(made.maxNewTokens, 5);
  assert.deepEqual(made.print, { kind: "text", tokenizer: join(DEMO.folder, "tokenizer.json"), stop: [] });
  assert.equal(echo, "In the");
});

Deno.test("generateJob() takes ids as they are, ignores the end of the text for them, and prints ids", () => {
  const { job: made } = job("--prompt-ids", "5, 6");
  assert.deepEqual([made.prompts, made.print, made.endIds], [[[5, 6]], { kind: "ids" }, []]);
  assert.deepEqual(job("--prompt-ids", "5", "--eos", "9").job.endIds, [9]);
});

Deno.test("generateJob() stops at the positions that the model has, and says so", () => {
  const { job: made, limitNote } = job("--prompt-ids", "1,2,3", "--max-new-tokens", "1000");
  assert.equal(made.maxNewTokens, 253);
  assert.match(limitNote!, /256 tokens/);
  assert.equal(job("--prompt-ids", "1,2,3", "--max-new-tokens", "253").limitNote, undefined);
  assert.throws(
    () => job("--prompt-ids", Array(256).fill(1).join()),
    /the prompt has 256 tokens, but the model takes 256/,
  );
});

Deno.test("generateJob() puts a question into the folder's chat template and ends at the model's end ids", () => {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-chat-" });
  for (const name of ["model.onnx", "tokenizer.json"]) Deno.copyFileSync(join(DEMO.folder, name), join(folder, name));
  Deno.writeTextFileSync(join(folder, "chat_template.jinja"), "{% for m in messages %}{{ m['content'] }}:{% endfor %}");
  Deno.writeTextFileSync(join(folder, "generation_config.json"), JSON.stringify({ eos_token_id: [9, 12] }));
  const args = parseCommand(generate, [folder, "--chat", "Who", "--system", "Be"]);
  const { job: made } = generateJob(args, ModelFolder.open(folder));
  assert.deepEqual(made.prompts, [DEMO.tokenizer().encode("Be:Who:")]);
  assert.deepEqual(made.endIds, [9, 12]);
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("generateJob() takes several prompts, and options of beams", () => {
  const { job: made, promptTokens } = job("--prompt-ids", "5,6;7", "--num-beams", "3", "--early-stopping", "never");
  assert.deepEqual(made.prompts, [[5, 6], [7]]);
  assert.equal(promptTokens, 3);
  assert.deepEqual(made.beams, { beams: 3, lengthPenalty: undefined, earlyStopping: "never" });
  assert.equal(job("--prompt-ids", "5", "--num-beams", "1").job.beams, undefined);
  assert.equal(typeof job("--prompt", "a", "--prompt", "In").job.prompts, "object");
});

Deno.test("generateJob() lets an encoder-decoder's text begin with what the folder or the caller says", () => {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-seq2seq-" });
  for (const name of ["encoder_model.onnx", "decoder_model_merged.onnx"]) {
    Deno.writeTextFileSync(join(folder, name), "");
  }
  const ask = (...args: string[]) =>
    generateJob(parseCommand(generate, [folder, "--prompt-ids", "5", ...args]), ModelFolder.open(folder)).job;
  assert.throws(() => ask(), /nobody says from which token the decoder starts/);
  assert.deepEqual(ask("--decoder-ids", "3,4").decoderPrompt, [3, 4]);
  Deno.writeTextFileSync(
    join(folder, "config.json"),
    JSON.stringify({ decoder_start_token_id: 2, forced_bos_token_id: 0 }),
  );
  assert.deepEqual(ask().decoderPrompt, [2, 0]);
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("generateJob() refuses calls that contradict themselves", () => {
  const wrong: [string[], RegExp][] = [
    [[], /there is no prompt/],
    [["--prompt", "a", "--chat", "b"], /--chat and --prompt exclude each other/],
    [["--prompt", ""], /the prompt is empty/],
    [["--prompt", "a", "--system", "b"], /--system belongs to --chat/],
    [["--prompt", "a", "--top-k", "5"], /--top-k has no effect at temperature 0/],
    [["--prompt-ids", "1", "--stop", "x"], /--stop needs text/],
    [["--prompt", "a", "--eos", "1", "--ignore-eos"], /exclude each other/],
    [["--prompt", "a", "--tokenizer", "no.json"], /Cannot read no.json: there is no such file/],
    [["--chat", "hi"], /no chat template/],
    [["--prompt", "a", "--min-p", "0.1"], /--min-p has no effect at temperature 0/],
    [["--prompt", "a", "--repetition-penalty", "0"], /repetition penalty 0: it must be above 0/],
    [["--prompt", "a", "--length-penalty", "2"], /--length-penalty has no effect without beams/],
    [["--prompt", "a", "--num-beams", "2", "--temperature", "1"], /--num-beams searches .* --temperature samples/],
    [["--prompt", "a", "--num-beams", "2", "--early-stopping", "soon"], /none of true, false and never/],
    [["--prompt", "a", "--num-beams", "0"], /not a whole number from 1 to 64/],
    [["--prompt", "a", "--prompt", ""], /the prompt is empty/],
    [["--prompt", "a", "--prompt", "b", "--echo"], /--echo belongs to one prompt/],
    [["--prompt-ids", "1,2;x"], /"x", which is no token id/],
    [["--prompt", "a", "--decoder-ids", "1"], /--decoder-ids is for models with an encoder/],
    [["--inputs", "a.safetensors"], /--inputs is for models with an encoder/],
    [["--prompt", "a", "--max-new-tokens", "0"], /not a whole number of at least 1/],
  ];
  for (const [args, message] of wrong) assert.throws(() => job(...args), message, args.join(" "));
});

Deno.test("speedLine() counts tokens after those of the first step, and says why there are no more", () => {
  const report = { tokens: 11, firstTokens: 1, loadMs: 1949, firstMs: 120, restMs: 200, ended: false };
  assert.equal(
    speedLine(report, 1, undefined),
    "11 tokens, 50.0 tokens/s; first token after 120 ms (1 token of prompt); loaded in 1.9 s",
  );
  assert.match(speedLine({ ...report, firstTokens: 3 }, 1, undefined), /^11 tokens, 40\.0 tokens\/s; first/);
  assert.match(speedLine(report, 2, "limit"), /; limit$/);
  assert.doesNotMatch(speedLine({ ...report, ended: true }, 2, "limit"), /limit/);
  assert.doesNotMatch(speedLine({ ...report, tokens: 1, restMs: 0 }, 2, undefined), /tokens\/s/);
  assert.match(
    speedLine({ ...report, firstTokens: 0, firstMs: undefined, restMs: 4400 }, 2, undefined),
    /^11 tokens, 2\.5 tokens\/s; all after 4\.4 s \(2 tokens of prompt\); loaded in 1\.9 s$/,
  );
});

Deno.test("samplingAdvice() says how the model's authors sample, if they do", () => {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-generate-" });
  Deno.writeTextFileSync(join(folder, "model.onnx"), "");
  const adviceFor = (config: Record<string, unknown>) => {
    Deno.writeTextFileSync(join(folder, "generation_config.json"), JSON.stringify(config));
    return samplingAdvice(ModelFolder.open(folder));
  };
  assert.equal(adviceFor({ temperature: 0.6 }), undefined);
  assert.match(
    adviceFor({ do_sample: true, temperature: 0.6, top_p: 0.9 })!,
    / samples: --temperature 0\.6 --top-p 0\.9$/,
  );
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("generateJob() refuses a model that its folder calls one that does not continue text", () => {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-generate-" });
  Deno.writeTextFileSync(join(folder, "model.onnx"), "");
  const attempt = (architecture: string) => {
    Deno.writeTextFileSync(join(folder, "config.json"), JSON.stringify({ architectures: [architecture] }));
    generateJob(parseCommand(generate, [folder, "--prompt-ids", "1,2"]), ModelFolder.open(folder));
  };
  assert.throws(() => attempt("BertForMaskedLM"), /holds a BertForMaskedLM, which does not continue text/);
  assert.throws(() => attempt("DebertaV2ForTokenClassification"), /does not continue text/);
  attempt("LlamaForCausalLM");
  attempt("T5ForConditionalGeneration");
  Deno.removeSync(folder, { recursive: true });
});
