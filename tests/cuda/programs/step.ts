// deno-lint-ignore-file no-console
/**
 * One rank that runs a model on its GPU again and again. Arguments: the model, its inputs, how many runs, and after how many which rank kills
 * itself: `run:rank`, or `-`. Prints what ends it.
 */
import { describeError } from "../../../src/core/errors.ts";
import { readTensors } from "../../../src/formats/tensor_file.ts";
import { init } from "../../../src/runtime/comm/init.ts";
import { parallelizeModel } from "../../../src/session.ts";

const [path, inputs, runs, death] = Deno.args;
const [at, victim] = death!.split(":").map(Number);
try {
  await using comm = await init({ device: "cuda", joinTimeoutMs: Number(Deno.env.get("JOIN_MS") ?? 60_000) });
  await using model = await parallelizeModel(path!, { comm, device: "cuda" });
  const feeds = Object.fromEntries(await readTensors(inputs!));
  for (let run = 0; run < Number(runs); run++) {
    if (run === at && comm.rank === victim) Deno.kill(Deno.pid, "SIGKILL");
    await model.run(feeds);
  }
  console.log("done");
} catch (error) {
  console.log(`${(error as Error).constructor.name}: ${describeError(error)}`);
}
