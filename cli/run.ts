/** `shardwise run`: one run of a model, from files to files. */
import { dirname } from "node:path";
import { ModelFolder } from "../src/generate/model_folder.ts";
import { readTensors } from "../src/formats/tensor_file.ts";
import type { Command, ParsedArgs } from "./command.ts";
import { DEVICE_OPTIONS, jobDevice, NPROC, rankCount, startJob } from "./job.ts";
import { meshSize, parseMesh } from "../src/plan/mesh.ts";
import { PLAN_OPTIONS, planConfig } from "./plan_options.ts";

/** The command. */
export const run: Command = {
  name: "run",
  summary: "run a model once on N ranks, from files to files",
  usage: "MODEL.onnx --inputs FILE --outputs FILE [--nproc N]",
  description:
    "Reads the model's inputs by their ONNX names, runs the model split over N ranks, and writes all its outputs by\n" +
    "their ONNX names. Files are .safetensors; a folder of .npy files (NAME.npy) does as well, for both.",
  options: {
    nproc: NPROC,
    inputs: { short: "i", value: "PATH", help: "in.safetensors, or a folder of .npy files; required" },
    outputs: { short: "o", value: "PATH", help: "out.safetensors, or a folder for .npy files; required" },
    mesh: { value: "dp=D,tp=T", help: "D groups of T ranks that share the batch; D·T is the number of ranks" },
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
  const text = args.text("mesh"), mesh = text === undefined ? undefined : parseMesh(text);
  const nproc = mesh && args.text("nproc") === undefined ? meshSize(mesh) : rankCount(args);
  if (mesh && meshSize(mesh) !== nproc) throw args.error(`--mesh ${text} is of ${meshSize(mesh)} ranks, not ${nproc}`);
  const { model } = ModelFolder.open(args.only("MODEL.onnx"));
  const inputs = args.required("inputs"), outputs = args.required("outputs");
  // Damaged files are told before any rank starts.
  await readTensors(inputs);
  requireFolderOf(outputs, args);
  return (await startJob(
    { kind: "run", on: jobDevice(args), model, inputs, outputs, plan: planConfig(args), ...(mesh ? { mesh } : {}) },
    nproc,
  )).code;
}

function requireFolderOf(path: string, args: ParsedArgs): void {
  const folder = dirname(path);
  try {
    if (Deno.statSync(folder).isDirectory) return;
  } catch {
    // Told below.
  }
  throw args.error(`there is no folder ${folder} for --outputs ${path}`, `mkdir -p ${folder}`);
}
