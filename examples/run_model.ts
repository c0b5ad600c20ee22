// deno-lint-ignore-file no-console -- examples speak
/**
 * Runs an ONNX model once, split over the ranks of this job, and prints what comes out.
 *
 *     deno task launch --nproc 2 --rank0 examples/run_model.ts [MODEL.onnx INPUTS.safetensors]
 *
 * Without arguments it runs a small BERT that lies in the repository.
 */
import { fileURLToPath } from "node:url";
import { init, parallelizeModel, readTensors, toNumbers } from "../mod.ts";

const SAMPLE = fileURLToPath(new URL("../tests/data/models/bert/", import.meta.url));
const [path = `${SAMPLE}model.onnx`, inputs = `${SAMPLE}single.inputs.safetensors`] = Deno.args;

// The launcher tells each process who it is; without a launcher this is a job of one rank.
await using comm = await init();

// Every rank calls the same functions with the same arguments and gets the same results.
await using model = await parallelizeModel(path, { comm });
const outputs = await model.run(Object.fromEntries(await readTensors(inputs)));

if (comm.rank === 0) {
  const { rank, whole } = model.weightBytes;
  console.log(`${comm.size} ranks; rank 0 holds ${rank} of ${whole} bytes of weights`);
  for (const [name, tensor] of Object.entries(outputs)) {
    const first = Array.from(toNumbers(tensor)).slice(0, 6).map((x) => x.toFixed(3));
    console.log(`${name} ${tensor.dtype}[${tensor.shape}] = ${first.join(" ")} …`);
  }
}
