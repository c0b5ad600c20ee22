/**
 * Whether the samples of a batch are independent of each other: then groups of ranks may share them, without a word between.
 * The proof is {@linkcode RowProof}; here are the ends of it, as callers know them.
 */
import { asSymbol, type Dim, dimDivide, symbol, symbolsOf } from "../core/dim.ts";
import { PlanError } from "../core/errors.ts";
import type { HostTensor } from "../core/host_tensor.ts";
import { type Graph, outputOf, valueOf } from "../graph/graph.ts";
import type { Shape } from "../graph/types.ts";
import type { OpLookup } from "./places.ts";
import { RowProof } from "./row_proof.ts";

/** Where the batch is in a tensor: outermost in `dim`, which holds `inner` elements of each row. */
export interface BatchDim {
  /** Counted from 0. */
  readonly dim: number;
  /** 1 where the dim is the batch alone. */
  readonly inner: Dim;
}

/** The batch of a model. */
export interface Batch {
  /** The symbol for the number of rows. */
  readonly symbol: string;
  /** By name of an input that has the batch; others are alike for all rows. */
  readonly inputs: ReadonlyMap<string, BatchDim>;
  /** By name of a result, as callers know it. */
  readonly outputs: ReadonlyMap<string, BatchDim>;
  /** Where the model's other graph has it, which runs where the boolean input `input` is `value`. */
  readonly other?: { readonly input: string; readonly value: boolean; readonly batch: Batch };
}

/** The batch of the graph that runs on `inputs`. */
export function batchFor(batch: Batch, inputs: Readonly<Record<string, HostTensor>>): Batch {
  const { other } = batch, choice = other && inputs[other.input];
  return choice && Boolean(choice.data[0]) === other.value ? other.batch : batch;
}

/**
 * The dims in which a clean graph has its batch.
 *
 * With `assume`, nothing is proved: who asks knows that samples are independent.
 *
 * @throws {PlanError} If it has none, or some call is not known to keep its samples apart: which one, and why.
 */
export function batchDims(graph: Graph<"global">, opDef: OpLookup, assume = false): Batch {
  const batch = batchSymbol(graph);
  if (assume) {
    const dimOf = (value: string) => assumedDim(valueOf(graph, value).type.shape, batch);
    return { symbol: batch, ...endsOf(graph, dimOf) };
  }
  const proof = new RowProof(graph, batch), mixed = proof.mixed(opDef);
  if (mixed) {
    throw new PlanError(`Cannot share the batch "${batch}" among groups of ranks: ${mixed.why}, at "${mixed.at}"`, {
      hint: "use one axis (dp=1), or say that you know the samples to be independent: `dp=…,tp=…,assume`",
    });
  }
  return { symbol: batch, ...endsOf(graph, (value) => proof.placeOf(value)) };
}

/** Inputs and results that have the batch. */
function endsOf(graph: Graph<"global">, dimOf: (value: string) => BatchDim | undefined): Omit<Batch, "symbol"> {
  const inputs = new Map<string, BatchDim>(), outputs = new Map<string, BatchDim>();
  const put = (into: Map<string, BatchDim>, name: string, value: string) => {
    const at = dimOf(value);
    if (at) into.set(name, { dim: at.dim, inner: at.inner });
  };
  for (const n of graph.nodes) if (n.kind === "placeholder") put(inputs, n.outputs[0], n.outputs[0]);
  const output = outputOf(graph);
  output.names.forEach((name, i) => put(outputs, name, output.inputs[i]!));
  return { inputs, outputs };
}

/** Where the batch is by a shape alone. */
function assumedDim(shape: Shape | undefined, name: string): BatchDim | undefined {
  const dim = (shape ?? []).findIndex((d) => symbolsOf(d).has(name));
  const inner = dim < 0 ? undefined : dimDivide(shape![dim]!, symbol(name));
  return inner === undefined ? undefined : { dim, inner };
}

/** The symbol of the first dim of most inputs that have one; states count last, as their names may be others. */
function batchSymbol(graph: Graph<"global">): string {
  const carried = new Set(graph.carried.map((c) => c.input));
  for (const own of [true, false]) {
    for (const node of graph.nodes) {
      if (node.kind !== "placeholder" || carried.has(node.outputs[0]) === own) continue;
      const found = asSymbol(valueOf(graph, node.outputs[0]).type.shape?.[0] ?? 0);
      if (found !== undefined) return found;
    }
  }
  throw new PlanError(
    `Cannot share the batch of "${graph.name}" among groups of ranks: no input begins with a symbolic dim`,
    {
      hint: "export the model with a dynamic batch, or use one axis: dp=1",
    },
  );
}
