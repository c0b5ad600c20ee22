/** What each rank does for `shardwise generate`; rank 0 prints. */
import type { LoadedFolder } from "../../src/folder_session.ts";
import { readTensors } from "../../src/formats/tensor_file.ts";
import type { EncoderPrompt } from "../../src/generate/encoder_decoder.ts";
import { ModelFolder } from "../../src/generate/model_folder.ts";
import type { Decode } from "../../src/generate/text_stream.ts";
import { StopStrings, TextStream } from "../../src/generate/text_stream.ts";
import { balanced } from "../../src/graph/layout.ts";
import { loadFolder } from "./load_model.ts";
import { meshGroup } from "./mesh_group.ts";
import type { GenerateJob, GenerateReport, RankContext } from "../job.ts";

/** Turns ids into what is printed. */
interface Printer {
  /** What `id` adds, and whether the text ends here. */
  readonly push: (id: number) => { readonly text: string; readonly stopped: boolean };
  readonly end: () => string;
}

/** Carries out `job`. */
export async function generateOnRank(job: GenerateJob, { comm, report }: RankContext): Promise<void> {
  const started = performance.now();
  await using group = await meshGroup(comm, job.mesh);
  const { threads } = group;
  await using model = await loadFolder(job.model, { comm: group.comm, on: job.on, plan: job.plan, threads });
  const prompts: readonly EncoderPrompt[] = typeof job.prompts === "string"
    ? [Object.fromEntries(await readTensors(job.prompts))]
    : job.prompts;
  const [own, ...others] = balanced(prompts.length, group.count).parts[group.index]!;
  if (!own || others.length > 0) throw new Error("unreachable: a group has one range of prompts");
  const makePrinter = printers(job, group.comm.rank);
  const show = comm.rank === 0 ? writer(Deno.stdout) : () => {};
  const began = performance.now();
  const run = job.beams !== undefined ? search : prompts.length === 1 ? stream : batch;
  const { texts, tokens, firstTokens, first, ended } = await run({
    job,
    model,
    prompts: prompts.slice(...own),
    makePrinter,
    show,
  });
  const last = performance.now();
  const outcome = {
    texts,
    tokens,
    firstTokens,
    loadMs: began - started,
    firstMs: first === undefined ? undefined : first - began,
    restMs: last - (first ?? began),
    ended,
  };
  const all = group.count === 1 ? [outcome] : await comm.objects.gather(outcome, 0);
  if (comm.rank !== 0 || !all) return;
  // Each group's first rank speaks for it.
  const groups = all.filter((_, rank) => rank % group.comm.size === 0);
  if (texts) show(joinTexts(job, groups.flatMap((g) => g.texts!)));
  const sum = (of: (g: (typeof groups)[number]) => number) => groups.reduce((total, g) => total + of(g), 0);
  const slowest = (of: (g: (typeof groups)[number]) => number) => Math.max(...groups.map(of));
  const result: GenerateReport = {
    tokens: sum((g) => g.tokens),
    firstTokens: sum((g) => g.firstTokens),
    loadMs: slowest((g) => g.loadMs),
    firstMs: first === undefined ? undefined : slowest((g) => g.firstMs ?? 0),
    restMs: slowest((g) => g.restMs),
    ended: groups.every((g) => g.ended),
  };
  report(result);
}

/** What a way of generating works with. */
interface Run {
  readonly job: GenerateJob;
  readonly model: LoadedFolder;
  readonly prompts: readonly EncoderPrompt[];
  readonly makePrinter: () => Printer;
  readonly show: (text: string) => void;
}

/** How many tokens were made, how many of them at first and when, and whether all texts came to their own end. */
interface Outcome {
  /** What is to be shown; undefined where it has been. */
  readonly texts?: readonly string[];
  readonly tokens: number;
  readonly firstTokens: number;
  readonly first: number | undefined;
  readonly ended: boolean;
}

/** One text, shown as it comes. */
async function stream({ job, model, prompts: [prompt], makePrinter, show }: Run): Promise<Outcome> {
  const printer = makePrinter();
  let first = 0, tokens = 0, ended = false;
  for await (const id of model.generate(prompt!, job)) {
    if (tokens++ === 0) first = performance.now();
    ended = job.endIds.includes(id);
    const { text, stopped } = printer.push(id);
    show(text);
    if (stopped) {
      ended = true;
      break;
    }
  }
  show(printer.end() + "\n");
  return { tokens, firstTokens: Math.min(tokens, 1), first, ended };
}

/** Several texts side by side. */
async function batch({ job, model, prompts, makePrinter }: Run): Promise<Outcome> {
  const texts = prompts.map(() => ({ printer: makePrinter(), text: "", ended: false }));
  let first = 0, tokens = 0, firstTokens = 0;
  const ends = (i: number, id: number) => {
    const own = texts[i]!, { text, stopped } = own.printer.push(id);
    own.text += text;
    own.ended = stopped || job.endIds.includes(id);
    return stopped;
  };
  for await (const ids of model.generateBatch(prompts, { ...job, ends })) {
    tokens += ids.filter((id) => id !== undefined).length;
    if (firstTokens === 0) [first, firstTokens] = [performance.now(), tokens];
  }
  const made = texts.map(({ text, printer }) => text + printer.end());
  return { texts: made, tokens, firstTokens, first, ended: texts.every((t) => t.ended) };
}

/** The best text of beam search for each prompt. */
async function search({ job, model, prompts, makePrinter }: Run): Promise<Outcome> {
  const { repetitionPenalty } = job.sampling;
  const texts: string[] = [];
  let tokens = 0, ended = true;
  for (const prompt of prompts) {
    const [best] = await model.beamSearch(prompt, { ...job, ...job.beams!, repetitionPenalty });
    const printer = makePrinter();
    const parts = best!.ids.map((id) => printer.push(id));
    texts.push(parts.map((p) => p.text).join("") + printer.end());
    tokens += best!.ids.length;
    ended &&= job.endIds.includes(best!.ids.at(-1)!) || parts.some((p) => p.stopped);
  }
  return { texts, tokens, firstTokens: 0, first: undefined, ended };
}

/** Lines of ids; paragraphs of text. */
function joinTexts({ print }: GenerateJob, texts: readonly string[]): string {
  return texts.join(print.kind === "ids" ? "\n" : "\n\n") + "\n";
}

/** Makes a printer for each text. */
function printers({ print, model }: GenerateJob, rank: number): () => Printer {
  if (print.kind === "ids") {
    return () => {
      let before = "";
      return {
        push(id) {
          const text = `${before}${id}`;
          before = " ";
          return { text, stopped: false };
        },
        end: () => "",
      };
    };
  }
  // Stop strings end the loop, so every rank must see them; without any, only rank 0 pays for a tokenizer.
  if (rank !== 0 && print.stop.length === 0) {
    return () => ({ push: () => ({ text: "", stopped: false }), end: () => "" });
  }
  const decode: Decode = ModelFolder.open(model).tokenizer(print.tokenizer).decode;
  return () => {
    const stream = new TextStream(decode), stop = new StopStrings(print.stop);
    return {
      push(id) {
        const text = stop.push(stream.push(id));
        return { text, stopped: stop.stopped };
      },
      end: () => stop.push(stream.end()) + stop.end(),
    };
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
