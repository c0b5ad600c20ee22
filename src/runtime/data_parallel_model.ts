/** A model on a mesh of two axes: groups of ranks share the batch, and the ranks of a group share the layers. */
import { InputError } from "../core/errors.ts";
import type { HostTensor } from "../core/host_tensor.ts";
import { evalDim } from "../core/dim.ts";
import { balanced, localSize, scale } from "../graph/layout.ts";
import { type Placement, REPLICATE, shard } from "../graph/placement.ts";
import { type Batch, type BatchDim, batchFor } from "../plan/batch.ts";
import { type DeviceMesh, printMesh } from "../plan/mesh.ts";
import type { Plan } from "../plan/plan.ts";
import type { Communicator } from "./comm/communicator.ts";
import type { ModelState } from "./model_state.ts";
import type { ParallelModel, TensorInfo } from "./parallel_model.ts";
import { copyTensor, gatherTensor, shardTensor } from "./shard_io.ts";

/** What a model on a mesh is made of. */
export interface DataParallelParts {
  /** This rank's part of its group's model. */
  readonly model: ParallelModel;
  /** The shape of the mesh. */
  readonly mesh: DeviceMesh;
  /** Where inputs and results have the batch. */
  readonly batch: Batch;
  /** The ranks of this rank's group. */
  readonly group: Communicator;
  /** The ranks that are in the place of this one, of all groups. */
  readonly across: Communicator;
}

/**
 * A model of which every group of ranks runs its share of a batch.
 *
 * All ranks call the same methods in the same order with equal, whole inputs, and get equal, whole results, as of
 * {@linkcode ParallelModel}. States stay in their groups.
 */
export class DataParallelModel implements AsyncDisposable {
  readonly #parts: DataParallelParts;

  /** Made by `parallelizeOverMesh`. */
  constructor(parts: DataParallelParts) {
    this.#parts = parts;
  }

  /** In the order of the ONNX model. */
  get inputs(): readonly TensorInfo[] {
    return this.#parts.model.inputs;
  }

  /** In the order of the ONNX model. */
  get outputs(): readonly TensorInfo[] {
    return this.#parts.model.outputs;
  }

  /** States that {@linkcode step} carries. */
  get carried(): ParallelModel["carried"] {
    return this.#parts.model.carried;
  }

  /** The shape of the mesh. */
  get mesh(): DeviceMesh {
    return this.#parts.mesh;
  }

  /** Where every tensor lives within a group. */
  get plan(): Plan {
    return this.#parts.model.plan;
  }

  /** Why the engine is not the best one; undefined where it is. */
  get notice(): string | undefined {
    return this.#parts.model.notice;
  }

  /**
   * Runs once on whole inputs; gives all outputs, whole, on every rank.
   *
   * @throws {InputError} If an input is not what the model takes, or there are fewer rows than groups.
   */
  async run(inputs: Readonly<Record<string, HostTensor>>): Promise<Record<string, HostTensor>> {
    const batch = batchFor(this.#parts.batch, inputs), rows = this.#rows(inputs, batch);
    return this.#whole(await this.#parts.model.run(this.#shares(inputs, batch, rows)), batch, rows);
  }

  /** An empty state for `batch` sequences. @throws {InputError} If there are fewer than groups. */
  start(batch = 1): ModelState {
    return this.#parts.model.start(localSize(this.#layout(batch), this.#parts.across.rank));
  }

  /**
   * One step with the carried tensors in `state`, which stay where they are. Gives the other outputs, whole.
   *
   * @throws {InputError} If an input is not what the model takes, or there are fewer rows than groups.
   */
  async step(inputs: Readonly<Record<string, HostTensor>>, state: ModelState): Promise<Record<string, HostTensor>> {
    const batch = batchFor(this.#parts.batch, inputs), rows = this.#rows(inputs, batch);
    return this.#whole(await this.#parts.model.step(this.#shares(inputs, batch, rows), state), batch, rows);
  }

  /** Releases the sessions and leaves the groups. Does not wait for other ranks. */
  async [Symbol.asyncDispose](): Promise<void> {
    const { model, group, across } = this.#parts;
    await model[Symbol.asyncDispose]();
    await group[Symbol.asyncDispose]();
    await across[Symbol.asyncDispose]();
  }

  /** Rows of the whole batch, as all inputs have them. */
  #rows(inputs: Readonly<Record<string, HostTensor>>, { symbol, inputs: places }: Batch): number {
    let rows: number | undefined;
    for (const [name, { shape }] of Object.entries(inputs)) {
      const at = places.get(name), size = at && shape[at.dim];
      if (size === undefined) continue;
      if (rows !== undefined && rows !== size) {
        throw new InputError(`Cannot run with ${size} rows of "${name}": other inputs have ${rows} ("${symbol}")`);
      }
      rows = size;
    }
    if (rows === undefined) throw new InputError(`Cannot run without an input that has the batch "${symbol}"`);
    return rows;
  }

  #layout(rows: number) {
    const { mesh, batch } = this.#parts;
    if (rows < mesh.dp) {
      throw new InputError(
        `Cannot share ${rows} row${rows === 1 ? "" : "s"} of "${batch.symbol}" among the groups of ${printMesh(mesh)}`,
        {
          hint: `give at least ${mesh.dp} rows, or use a mesh with fewer groups`,
        },
      );
    }
    return balanced(rows, mesh.dp);
  }

  #placement(at: BatchDim | undefined, rows: number, inner = 1): Placement {
    return at ? shard(at.dim, scale(this.#layout(rows), inner)) : REPLICATE;
  }

  #shares(inputs: Readonly<Record<string, HostTensor>>, batch: Batch, rows: number): Record<string, HostTensor> {
    return Object.fromEntries(
      Object.entries(inputs).map(([name, tensor]) => [
        name,
        shardTensor(tensor, this.#placement(batch.inputs.get(name), rows), this.#parts.across.rank),
      ]),
    );
  }

  #whole(results: Readonly<Record<string, HostTensor>>, batch: Batch, rows: number): Record<string, HostTensor> {
    const { across } = this.#parts;
    const own = localSize(this.#layout(rows), across.rank);
    return Object.fromEntries(
      Object.entries(results).map(([name, tensor]) => {
        const at = batch.outputs.get(name);
        if (!at) return [name, copyTensor(tensor)];
        const inner = evalDim(at.inner, new Map()) ?? tensor.shape[at.dim]! / own;
        return [name, gatherTensor(tensor, this.#placement(at, rows, inner), across)];
      }),
    );
  }
}
