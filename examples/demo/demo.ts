/**
 * The demo: a small language model, split over the ranks of this job, that babbles in the manner of the King James Bible.
 *
 *     deno task demo
 */
import { fileURLToPath } from "node:url";
import { generate } from "../../src/generate/generate.ts";
import { ModelFolder } from "../../src/generate/model_folder.ts";
import { Sampler } from "../../src/generate/sampler.ts";
import { TextStream } from "../../src/generate/text_stream.ts";
import { planOutline } from "../../src/plan/outline.ts";
import { init } from "../../src/runtime/comm/init.ts";
import { progressLine } from "../../src/runtime/progress_line.ts";
import { explainModel } from "../../src/explain_model.ts";
import { parallelizeModel } from "../../src/session.ts";

const PROMPT = "And David said unto";

const folder = ModelFolder.open(fileURLToPath(new URL(".", import.meta.url)));
const tokenizer = folder.tokenizer();
const prompt = tokenizer.encode(PROMPT);

await using comm = await init();
const line = progressLine(comm);
await using model = await parallelizeModel(folder.model, { comm, onProgress: line.onProgress });
line[Symbol.dispose]();

const encoder = new TextEncoder();
/** Only rank 0 speaks; all ranks compute. */
const print = comm.rank === 0 ? (text: string) => void Deno.stdout.writeSync(encoder.encode(text)) : () => {};

if (comm.rank === 0) {
  const { report } = explainModel(folder.model, { ranks: comm.size });
  print(`A model of ${folder.contextLength} positions, split over ${comm.size} ranks:\n`);
  for (const line of planOutline(report)) print(`  ${line}\n`);
  if (model.notice !== undefined) print(`  ${model.notice}\n`);
}
// Explaining takes rank 0 a while; nobody's clock should count it.
await comm.barrier();

print(`\n${PROMPT}`);
const text = new TextStream(tokenizer.decode);
const maxNewTokens = folder.contextLength! - prompt.length;
const began = performance.now();
let tokens = 0;
for await (const id of generate(model, prompt, { sampler: new Sampler(), maxNewTokens })) {
  print(text.push(id));
  tokens++;
}
const seconds = (performance.now() - began) / 1000;
print(`${text.end()}\n\n${tokens} tokens in ${seconds.toFixed(2)} s: ${(tokens / seconds).toFixed(0)} tokens/s\n`);
