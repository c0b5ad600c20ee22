/** Running all ranks of a job in one session of an engine: no processes, no transport; for proofs and tests. */
import { byteLength } from "../core/dtype.ts";
import { evalDim } from "../core/dim.ts";
import { GraphError, InputError } from "../core/errors.ts";
import { type HostTensor, hostTensorBytes, hostTensorFromBytes } from "../core/host_tensor.ts";
import { exportOnnx } from "../formats/export_onnx.ts";
import { type Graph, outputOf, valueOf } from "../graph/graph.ts";
import { assemble, localSize } from "../graph/layout.ts";
import { type Placement, REPLICATE } from "../graph/placement.ts";
import type { TensorType } from "../graph/types.ts";
import { fuseRank } from "../passes/fuse_rank.ts";
import { localize } from "../passes/localize.ts";
import { emulate, emulatedName } from "../program/emulate.ts";
import type { Engine, EngineSession, EngineTensor } from "./cpu/engine.ts";
import { bindSymbols } from "./cpu/shapes.ts";
import { shardTensor } from "./shard_io.ts";

/** A job of several ranks as one session. */
export class Emulation implements AsyncDisposable {
  readonly #locals: readonly Graph<"local">[];
  readonly #whole: Graph<"local">;
  readonly #engine: Engine;
  readonly #session: EngineSession;

  private constructor(locals: readonly Graph<"local">[], whole: Graph<"local">, on: [Engine, EngineSession]) {
    this.#locals = locals;
    this.#whole = whole;
    [this.#engine, this.#session] = on;
  }

  /** Compiles the ranks' local graphs, `locals[r]` being rank r's. @throws {GraphError} If they do not fit together. */
  static async open(engine: Engine, locals: readonly Graph<"local">[]): Promise<Emulation> {
    const whole = emulate(locals);
    return new Emulation(locals, whole, [engine, await engine.createSession(exportOnnx(whole), { threads: 1 })]);
  }

  /**
   * One step: `feeds[r]` are rank r's local tensors by input name, the result its outputs in the graph's order.
   *
   * @throws {InputError} If inputs are missing or contradict each other.
   */
  async step(feeds: readonly ReadonlyMap<string, HostTensor>[]): Promise<HostTensor[][]> {
    const tensors: Record<string, EngineTensor> = {};
    const bindings = new Map<string, number>();
    this.#locals.forEach((graph, rank) => {
      const types = new Map<string, TensorType>();
      for (const node of graph.nodes) {
        if (node.kind === "placeholder") types.set(node.outputs[0], valueOf(graph, node.outputs[0]).type);
      }
      const tensorOf = (name: string) => {
        const tensor = feeds[rank]?.get(name);
        if (!tensor) throw new InputError(`Cannot run without input "${name}" of rank ${rank}`);
        return tensor;
      };
      for (const name of types.keys()) {
        const { dtype, data, shape } = tensorOf(name);
        tensors[emulatedName(rank, name)] = this.#engine.tensor(dtype, data, shape);
      }
      for (const [symbol, size] of bindSymbols(types, (name) => tensorOf(name).shape)) bindings.set(symbol, size);
    });
    for (const node of this.#whole.nodes) {
      if (node.kind !== "placeholder") continue;
      const { name, ints } = valueOf(this.#whole, node.outputs[0]);
      if (tensors[name] || !ints) continue;
      const sizes = ints.elements.map((e) => {
        const size = evalDim(e, bindings);
        if (size === undefined) {
          throw new InputError(`Cannot compute size ${e}: a symbol in it is not among the inputs'`);
        }
        return BigInt(size);
      });
      tensors[name] = this.#engine.tensor("i64", BigInt64Array.from(sizes), ints.dims);
    }
    const { names } = outputOf(this.#whole);
    const results = await this.#session.run(tensors, Object.fromEntries(names.map((n) => [n, null])));
    return this.#locals.map((graph, rank) =>
      outputOf(graph).names.map((name) => {
        const { dtype, dims, data } = results[emulatedName(rank, name)]!;
        return { dtype, shape: [...dims], data: data.slice() };
      })
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#session.release();
  }
}

/** A sharded graph that runs on whole tensors, all its ranks in one session. */
export class EmulatedModel implements AsyncDisposable {
  readonly #sharded: Graph<"sharded">;
  readonly #ranks: number;
  readonly #emulation: Emulation;

  private constructor(sharded: Graph<"sharded">, ranks: number, emulation: Emulation) {
    this.#sharded = sharded;
    this.#ranks = ranks;
    this.#emulation = emulation;
  }

  /** Compiles `sharded` for `ranks`; `fuse` says whether ranks fuse what they do on a CPU. */
  static async open(
    engine: Engine,
    sharded: Graph<"sharded">,
    ranks: number,
    { fuse = true }: { readonly fuse?: boolean } = {},
  ): Promise<EmulatedModel> {
    const locals = Array.from({ length: ranks }, (_, rank) => {
      const local = localize(sharded, rank, ranks);
      return fuse ? fuseRank([local]).graphs[0]! : local;
    });
    return new EmulatedModel(sharded, ranks, await Emulation.open(engine, locals));
  }

  /**
   * Runs once on whole inputs by name; gives all outputs, whole.
   *
   * @throws {GraphError} If a replicated output is not the same, bit by bit, on all ranks.
   */
  async run(inputs: Readonly<Record<string, HostTensor>>): Promise<Record<string, HostTensor>> {
    const placementOf = (name: string) => valueOf(this.#sharded, name).placement ?? REPLICATE;
    const feeds = Array.from(
      { length: this.#ranks },
      (_, rank) => new Map(Object.entries(inputs).map(([n, t]) => [n, shardTensor(t, placementOf(n), rank)] as const)),
    );
    const parts = await this.#emulation.step(feeds);
    const output = outputOf(this.#sharded);
    return Object.fromEntries(
      output.names.map((name, i) => [
        name,
        joined(name, placementOf(output.inputs[i]!), parts.map((p) => p[i]!)),
      ]),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#emulation[Symbol.asyncDispose]();
  }
}

/** The whole of an output from all ranks' parts. */
function joined(name: string, placement: Placement, parts: readonly HostTensor[]): HostTensor {
  const first = parts[0]!;
  if (placement.kind === "P") throw new GraphError(`Cannot join output "${name}": it is a partial sum`);
  if (placement.kind === "R") {
    const bytes = hostTensorBytes(first);
    const other = parts.findIndex((p) => !equalBytes(bytes, hostTensorBytes(p)));
    if (other > 0) throw new GraphError(`Cannot join output "${name}": rank ${other} has other values than rank 0`);
    return first;
  }
  const { dim, layout } = placement;
  const holder = parts.findIndex((_, r) => localSize(layout, r) > 0);
  const repeats = parts[holder]!.shape[dim]! / localSize(layout, holder);
  const shape = first.shape.with(dim, repeats * layout.size);
  const inner = byteLength(first.dtype, shape.slice(dim + 1).reduce((a, b) => a * b, 1));
  const outer = shape.slice(0, dim).reduce((a, b) => a * b, 1) * repeats;
  const out = new Uint8Array(outer * layout.size * inner);
  const bytes = parts.map(hostTensorBytes), pieces = assemble(layout);
  let at = 0;
  for (let o = 0; o < outer; o++) {
    for (const { rank, start, end } of pieces) {
      const row = o * localSize(layout, rank) * inner;
      out.set(bytes[rank]!.subarray(row + start * inner, row + end * inner), at);
      at += (end - start) * inner;
    }
  }
  return hostTensorFromBytes(first.dtype, shape, out);
}

function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((x, i) => x === b[i]);
}
