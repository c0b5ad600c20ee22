// deno-lint-ignore-file no-console -- a rank reports to its test by its output
// A small model on the ranks of mpirun; prints how far its result is from that of one rank, or the error.
import { fromNumbers, toNumbers } from "../../../src/core/host_tensor.ts";
import { init } from "../../../src/runtime/comm/init.ts";
import { LocalCommunicator } from "../../../src/runtime/comm/local.ts";
import { parallelizeModel } from "../../../src/session.ts";
import { testModel } from "../../support/cli.ts";
import type { Communicator } from "../../../src/runtime/comm/communicator.ts";

await using comm = await init({ timeoutMs: 60_000 });

/** The model's first output for inputs that grow from -1 to 1. */
async function result(group: Communicator): Promise<readonly number[]> {
  await using model = await parallelizeModel(testModel("mlp", "model.onnx"), { comm: group });
  const feeds = Object.fromEntries(model.inputs.map(({ name, type }) => {
    const shape = type.shape!.map((dim) => typeof dim === "number" ? dim : 2), n = shape.reduce((a, b) => a * b, 1);
    return [name, fromNumbers(type.dtype!, shape, Array.from({ length: n }, (_, i) => 2 * i / n - 1))];
  }));
  const outputs = await model.run(feeds);
  return Array.from(toNumbers(outputs[model.outputs[0]!.name]!));
}

try {
  const together = await result(comm), alone = await result(new LocalCommunicator());
  const off = Math.max(...together.map((v, i) => Math.abs(v - alone[i]!)));
  console.log(JSON.stringify({ backend: comm.backend, elements: together.length, off }));
} catch (error) {
  const { name, message, hint } = error as Error & { hint?: string };
  console.log(JSON.stringify({ backend: comm.backend, name, message, hint }));
}
