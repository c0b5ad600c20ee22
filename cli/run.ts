/** `shardwise run`: one run of a model, from files to files. */
import { extname } from "node:path";
import { graphsBeside, ModelFolder } from "../src/generate/model_folder.ts";
import { readTensors } from "../src/formats/tensor_file.ts";
import type { Command, ParsedArgs } from "./command.ts";
import { DEVICE_OPTIONS, jobDevice, MESH, NPROC, ranksOf, startJob } from "./job.ts";
import { shardedFor } from "../src/sharded_folder.ts";
import { checkOutput, requireFolder } from "./output_file.ts";
import { checkPlanFile, PLAN_OPTIONS, planConfig } from "./plan_options.ts";

/** The command. */
export const run: Command = {
  name: "run",
  summary: "run a model once on N ranks, from files to files",
  usage: "MODEL.onnx --inputs FILE --outputs FILE [--nproc N]",
  description:
    "Reads the model's inputs by their ONNX names, runs the model split over N ranks, and writes all its outputs by\n" +
    "their ONNX names. Files are .safetensors; a folder of .npy files (NAME.npy) does as well, for both. MODEL may be a folder\n" +
    "that `shardwise export` made: then each rank loads its own file, and nothing is planned.",
  options: {
    nproc: NPROC,
    inputs: { short: "i", value: "PATH", help: "in.safetensors, or a folder of .npy files; required" },
    outputs: { short: "o", value: "PATH", help: "out.safetensors, or a folder for .npy files; required" },
    mesh: MESH,
    ...DEVICE_OPTIONS,
    ...PLAN_OPTIONS,
  },
  examples: [
    "shardwise run model.onnx --nproc 2 --inputs in.safetensors --outputs out.safetensors",
    "shardwise run model.onnx --nproc 3 --inputs arrays/ --outputs results/",
  ],
  run: runModel,
};

async function runModel(args: ParsedArgs): Promise<number> {
  const named = args.only("MODEL.onnx"), { model } = ModelFolder.open(named);
  const { nproc, mesh } = ranksOf(args, model);
  const plan = planConfig(args);
  checkPlanFile(args, plan, { ranks: nproc, model });
  if (mesh && (plan.file !== undefined || shardedFor(model) !== undefined)) {
    throw args.error("--mesh plans anew, so it cannot be had with a plan's file or a model in parts");
  }
  const inputs = args.required("inputs"), outputs = args.required("outputs");
  // Damaged files are told before any rank starts.
  await readTensors(inputs);
  if (extname(outputs) === "") requireFolder(outputs, "outputs", args);
  else checkOutput(outputs, "outputs", args);
  return (await startJob(
    {
      kind: "run",
      on: jobDevice(args),
      model,
      // Who names a folder means a model with all of its graphs.
      beside: named === model ? [] : graphsBeside(model),
      inputs,
      outputs,
      plan,
      ...(mesh ? { mesh } : {}),
    },
    nproc,
  )).code;
}
