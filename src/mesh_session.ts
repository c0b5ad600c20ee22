/** A model on a mesh of ranks: groups share the batch, the ranks of a group the layers. */
import { PlanError } from "./core/errors.ts";
import { agreeOnCosts } from "./measured_costs.ts";
import { batchOf, shareNominal } from "./mesh_batch.ts";
import { type DeviceMesh, meshSize, printMesh } from "./plan/mesh.ts";
import { DataParallelModel } from "./runtime/data_parallel_model.ts";
import { parallelizeModel, type ParallelizeOptions } from "./session.ts";

/** How a model is put on a mesh. */
export interface OverMeshOptions extends ParallelizeOptions {
  /** Groups that share the batch, and ranks of a group that share the layers; together the ranks of `comm`. */
  readonly mesh: DeviceMesh;
}

/**
 * Like {@linkcode parallelizeModel} on a mesh of two axes: groups of ranks share the batch, the ranks of each group share the
 * layers. All ranks call it together.
 *
 * @throws {PlanError} If the mesh has not as many ranks as `comm`, or the model's batch cannot be shared: why not.
 * @example
 * ```ts ignore
 * await using comm = await init(); // 4 ranks
 * await using model = await parallelizeOverMesh("bert.onnx", { comm, mesh: { dp: 2, tp: 2 } });
 * ```
 */
export async function parallelizeOverMesh(
  path: string,
  { mesh, ...options }: OverMeshOptions,
): Promise<DataParallelModel> {
  const { comm } = options, { dp, tp } = mesh;
  if (meshSize(mesh) !== comm.size) {
    throw new PlanError(`Cannot put ${comm.size} ranks on the mesh ${printMesh(mesh)} of ${meshSize(mesh)}`);
  }
  const batch = batchOf(path, mesh);
  // What the whole job measured and agreed on, before it falls into groups.
  const config = shareNominal(await agreeOnCosts(comm, options.config ?? {}), batch, mesh);
  const group = (await comm.split(Math.floor(comm.rank / tp), comm.rank, { name: "tp" }))!;
  const across = (await comm.split(comm.rank % tp, comm.rank, { name: "dp" }))!;
  const threads = options.threads ?? Math.max(1, Math.floor(comm.cores / (dp * tp)));
  const model = await parallelizeModel(path, {
    ...options,
    threads,
    comm: group,
    config: { ...config, calibrated: false },
  });
  return new DataParallelModel({ model, mesh, batch, group, across });
}
