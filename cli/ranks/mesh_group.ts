/** The group of ranks that shares the layers, on a mesh; groups share what there is to do. */
import type { DeviceMesh } from "../../src/plan/mesh.ts";
import type { Communicator } from "../../src/runtime/comm/communicator.ts";

/** Where a rank is on a mesh. */
export interface MeshGroup extends AsyncDisposable {
  /** The ranks of its group. */
  readonly comm: Communicator;
  /** Number of the group. */
  readonly index: number;
  /** How many there are. */
  readonly count: number;
  /** Threads of each rank's sessions, where all groups share the cores of a host; undefined where there is one group. */
  readonly threads: number | undefined;
}

/** The group of this rank of `comm`; all ranks, where there is no mesh. All ranks call it together. */
export async function meshGroup(comm: Communicator, mesh: DeviceMesh | undefined): Promise<MeshGroup> {
  if (!mesh || mesh.dp === 1) {
    return { comm, index: 0, count: 1, threads: undefined, [Symbol.asyncDispose]: () => Promise.resolve() };
  }
  const index = Math.floor(comm.rank / mesh.tp);
  const group = (await comm.split(index, comm.rank, { name: "tp" }))!;
  return {
    comm: group,
    index,
    count: mesh.dp,
    threads: Math.max(1, Math.floor(comm.cores / comm.size)),
    [Symbol.asyncDispose]: () => group[Symbol.asyncDispose](),
  };
}
