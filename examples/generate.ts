// deno-lint-ignore-file no-console -- examples speak
/**
 * Greedy text generation by hand: one step a token, with the key/value cache carried in a `ModelState`, where it stays split
 * over the ranks.
 *
 *     deno task launch --nproc 2 --rank0 examples/generate.ts [FOLDER]
 *
 * FOLDER holds a model.onnx and a generate.json with the ids of a prompt. `generate` of the public API wraps this loop with
 * sampling and end tokens; `examples/demo/demo.ts` uses it.
 */
import { fileURLToPath } from "node:url";
import { fromNumbers, type HostTensor, init, parallelizeModel, toNumbers } from "../mod.ts";

const SAMPLE = fileURLToPath(new URL("../tests/data/models/llama", import.meta.url));
const [folder = SAMPLE] = Deno.args;
const { prompt }: { prompt: number[] } = JSON.parse(Deno.readTextFileSync(`${folder}/generate.json`));
const TOKENS = 12;

await using comm = await init();
await using model = await parallelizeModel(`${folder}/model.onnx`, { comm });

/** What the model is fed beside its cache: `now` after `past` earlier tokens, batch 1. */
function feeds(past: number, now: readonly number[]): Record<string, HostTensor> {
  const all: Record<string, HostTensor> = {
    input_ids: fromNumbers("i64", [1, now.length], now),
    attention_mask: fromNumbers("i64", [1, past + now.length], Array(past + now.length).fill(1)),
    position_ids: fromNumbers("i64", [1, now.length], now.map((_, i) => past + i)),
  };
  const known = new Set(model.inputs.map((input) => input.name));
  return Object.fromEntries(Object.entries(all).filter(([name]) => known.has(name)));
}

const state = model.start(1);
const text: number[] = [];
let past = 0, now: readonly number[] = prompt;
for (let i = 0; i < TOKENS; i++) {
  const { logits } = await model.step(feeds(past, now), state);
  const row = Array.from(toNumbers(logits!)).slice(-logits!.shape.at(-1)!);
  const best = row.indexOf(Math.max(...row));
  past += now.length;
  now = [best];
  text.push(best);
}
if (comm.rank === 0) console.log(text.join(" "));
