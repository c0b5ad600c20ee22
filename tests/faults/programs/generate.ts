// deno-lint-ignore-file no-console -- a user's program
/**
 * A job that generates with the demo's model until something happens: `generate.ts MOMENT MODE RANK`. Rank RANK ends in the way MODE
 * (`kill`, `throw`, `exit`, `none`) at MOMENT: `start` (before it joins the others), `middle` (in a step, while the others wait in its
 * collectives) or `end` (after the last token, before the job ends). Says `rank R is up` when it runs.
 */
import { fileURLToPath } from "node:url";
import { generate } from "../../../src/generate/generate.ts";
import { ModelFolder } from "../../../src/generate/model_folder.ts";
import { Sampler } from "../../../src/generate/sampler.ts";
import { init } from "../../../src/runtime/comm/init.ts";
import { parallelizeModel } from "../../../src/session.ts";

const [moment, mode, faulty] = Deno.args;
const TOKENS_BEFORE = 10;

/** Ends this rank, if it is its turn. */
function fail(now: string, rank: number): void {
  if (now !== moment || rank !== Number(faulty)) return;
  if (mode === "kill") Deno.kill(Deno.pid, "SIGKILL");
  if (mode === "throw") throw new TypeError(`fault at the ${now}`);
  if (mode === "exit") Deno.exit(7);
}

fail("start", Number(Deno.env.get("RANK")));
const folder = ModelFolder.open(fileURLToPath(new URL("../../../examples/demo/", import.meta.url)));
const prompt = folder.tokenizer().encode("And David said unto");
await using comm = await init();
await using model = await parallelizeModel(folder.model, { comm });
console.log(`rank ${comm.rank} is up`);
const limit = moment === "end" ? TOKENS_BEFORE : folder.contextLength! - prompt.length;
for (let round = 0; moment !== "end" || round === 0; round++) {
  let tokens = 0;
  for await (const _ of generate(model, prompt, { sampler: new Sampler(), maxNewTokens: limit })) {
    // The other ranks go on into the next token's first collective and wait there.
    if (++tokens === TOKENS_BEFORE) fail("middle", comm.rank);
  }
}
fail("end", comm.rank);
await comm.barrier();
