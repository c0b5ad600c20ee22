/** `shardwise export`: a model in parts, as files that run without planning. */
import { ModelFolder } from "../src/generate/model_folder.ts";
import { planSummary } from "../src/plan/explain.ts";
import { printBytes } from "../src/plan/units.ts";
import { shardedFor } from "../src/sharded_folder.ts";
import { shardModelFolder } from "../src/shard_model.ts";
import type { Command, ParsedArgs } from "./command.ts";
import { passConfig, PLAN_OPTIONS, planConfig } from "./plan_options.ts";
import { printResult } from "./print.ts";

/** The command. */
export const exportParts: Command = {
  name: "export",
  summary: "split a model into one ONNX file a rank, which runs without planning",
  usage: "MODEL.onnx --tp N --out DIR [OPTIONS]",
  description:
    "Writes to DIR: rank<r>.onnx and rank<r>.bin, each rank's part; plan.json, every placement, collective and cost; graph.txt,\n" +
    "the sharded graph; model.onnx and model.onnx.data, the whole model with ONNX's multi-device annotations (IR 11), unless\n" +
    "--quantize changes its weights. Tokenizer and configuration are copied along. `shardwise run DIR` and `shardwise generate\n" +
    "DIR` then load each rank's own file. Of an encoder-decoder's folder, DIR/encoder and DIR/first_step hold the other graphs.\n" +
    "docs/plan-json.md describes the files.",
  options: {
    tp: { short: "n", value: "N", help: "ranks to split for; required" },
    out: { short: "o", value: "DIR", help: "the folder to write, made if need be; required" },
    ...PLAN_OPTIONS,
  },
  examples: [
    "shardwise export model.onnx --tp 4 --out parts/",
    "shardwise generate parts/ --prompt-ids 24,79,85",
  ],
  run: writeParts,
};

function writeParts(args: ParsedArgs): Promise<number> {
  const ranks = args.number("tp", { least: 1, most: 1024, whole: true });
  if (ranks === undefined) throw args.error("--tp N is missing");
  const out = args.required("out");
  const named = args.only("MODEL.onnx"), folder = ModelFolder.open(named), { model } = folder;
  if (shardedFor(model) !== undefined) {
    throw args.error(
      `${model} is split already, for ${shardedFor(model)} ranks`,
      "name the model itself: model.onnx in it",
    );
  }
  const { plan: made, files } = shardModelFolder(
    named === model ? { model, firstStep: undefined, encoder: undefined } : folder,
    out,
    {
      ranks,
      config: passConfig(planConfig(args), ranks),
    },
  );
  const width = Math.max(...files.map(({ name }) => name.length)) + 2;
  printResult(
    [planSummary(made), ...files.map(({ name, bytes }) => `  ${name.padEnd(width)}${printBytes(bytes)}`)].join("\n"),
  );
  return Promise.resolve(0);
}
