/** What each rank does for `shardwise run`; rank 0 writes the outputs. */
import { readTensors, writeTensors } from "../../src/formats/tensor_file.ts";
import { parallelizeOverMesh } from "../../src/mesh_session.ts";
import { loadModel } from "./load_model.ts";
import type { RankContext, RunJob } from "../job.ts";
import { printResult } from "../print.ts";

/** Carries out `job`. */
export async function runOnRank(job: RunJob, { comm }: RankContext): Promise<void> {
  const inputs = Object.fromEntries(await readTensors(job.inputs));
  const { mesh, beside } = job;
  await using model = mesh && mesh.dp > 1
    ? await parallelizeOverMesh(job.model, { comm, mesh, ...job.on, config: job.plan, beside })
    : await loadModel(job.model, { comm, on: job.on, plan: job.plan, beside });
  const outputs = await model.run(inputs);
  if (comm.rank !== 0) return;
  await writeTensors(job.outputs, new Map(Object.entries(outputs)));
  for (const [name, { dtype, shape }] of Object.entries(outputs)) printResult(`${name} ${dtype}[${shape}]`);
}
