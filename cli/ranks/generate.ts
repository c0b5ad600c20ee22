/** What each rank does for `shardwise generate`; rank 0 prints. */
import { ModelFolder } from "../../src/generate/model_folder.ts";
import { generate } from "../../src/generate/generate.ts";
import { Sampler } from "../../src/generate/sampler.ts";
import { StopStrings, TextStream } from "../../src/generate/text_stream.ts";
import { loadModel } from "./load_model.ts";
import type { GenerateJob, GenerateReport, RankContext } from "../job.ts";

/** Turns ids into what is printed. */
interface Printer {
  /** What `id` adds, and whether the text ends here. */
  readonly push: (id: number) => { readonly text: string; readonly stopped: boolean };
  readonly end: () => string;
}

/** Carries out `job`. */
export async function generateOnRank(job: GenerateJob, { comm, report }: RankContext): Promise<void> {
  await using model = await loadModel(job.model, { comm, on: job.on, plan: job.plan });
  const printer = makePrinter(job, comm.rank);
  const show = comm.rank === 0 ? writer(Deno.stdout) : undefined;
  const began = performance.now();
  let first = 0, made = 0, ended = false;
  for await (
    const id of generate(model, job.prompt, {
      sampler: new Sampler(job.sampling),
      maxNewTokens: job.maxNewTokens,
      endIds: job.endIds,
    })
  ) {
    if (made++ === 0) first = performance.now();
    ended = job.endIds.includes(id);
    const { text, stopped } = printer.push(id);
    show?.(text);
    if (stopped) {
      ended = true;
      break;
    }
  }
  if (show === undefined) return;
  const last = performance.now();
  show(printer.end() + "\n");
  const result: GenerateReport = { tokens: made, firstMs: first - began, restMs: last - first, ended };
  report(result);
}

function makePrinter(job: GenerateJob, rank: number): Printer {
  const { print } = job;
  if (print.kind === "ids") {
    let before = "";
    return {
      push(id) {
        const text = `${before}${id}`;
        before = " ";
        return { text, stopped: false };
      },
      end: () => "",
    };
  }
  // Stop strings end the loop, so every rank must see them; without any, only rank 0 pays for a tokenizer.
  if (rank !== 0 && print.stop.length === 0) return { push: () => ({ text: "", stopped: false }), end: () => "" };
  const stream = new TextStream(ModelFolder.open(job.model).tokenizer(print.tokenizer).decode);
  const stop = new StopStrings(print.stop);
  return {
    push(id) {
      const text = stop.push(stream.push(id));
      return { text, stopped: stop.stopped };
    },
    end: () => stop.push(stream.end()) + stop.end(),
  };
}

/** Writes text whole, at once. */
function writer(target: { writeSync: (bytes: Uint8Array) => number }): (text: string) => void {
  const encoder = new TextEncoder();
  return (text) => {
    const bytes = encoder.encode(text);
    for (let at = 0; at < bytes.length;) at += target.writeSync(bytes.subarray(at));
  };
}
