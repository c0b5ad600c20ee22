/**
 * Whether the rows of a batch are independent of each other: then groups of ranks may share them, without a word between.
 *
 * Proved from the factors of all calls: the batch is followed from the inputs as the outermost index of a dim (alone, or
 * merged with others: batch·heads). A call keeps rows apart where one factor holds the batch in everything that has it, and
 * is not reduced. What has no factor for it, or computes with the number of rows, may
 * mix them.
 */
import { asSymbol, type Dim, dimDivide, dimMul, symbol, symbolsOf } from "../core/dim.ts";
import { PlanError } from "../core/errors.ts";
import { type Graph, outputOf, valueOf } from "../graph/graph.ts";
import type { Shape } from "../graph/types.ts";
import { type OpLookup, type PlannedCall, plannedCalls } from "./places.ts";

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
}

/**
 * The dims in which a clean graph has its batch.
 *
 * With `assume`, nothing is proved: who asks knows that rows are independent. Decoders that build their masks from row
 * numbers need it.
 *
 * @throws {PlanError} If it has none, or some call does not keep its rows apart: which one.
 */
export function batchDims(graph: Graph<"global">, opDef: OpLookup, assume = false): Batch {
  const batch = batchSymbol(graph);
  if (assume) {
    return {
      symbol: batch,
      ...endsOf(graph, (value) => assumedDim(valueOf(graph, value).type.shape, batch)),
    };
  }
  const has = (d: Dim | undefined) => d !== undefined && symbolsOf(d).has(batch);
  const marks = new Map<string, BatchDim>();
  const refuse = (name: string, why: string): never => {
    throw new PlanError(`Cannot share the batch "${batch}" among groups of ranks: ${why} at "${name}"`, {
      hint: "use one axis (dp=1), or say that you know the rows to be independent: `dp=…,tp=…,assume`",
    });
  };
  for (const node of graph.nodes) {
    if (node.kind !== "placeholder") continue;
    const shape = valueOf(graph, node.outputs[0]).type.shape ?? [];
    const dims = shape.flatMap((d, dim) => (has(d) ? [dim] : []));
    if (dims.length === 0) continue;
    if (dims.length > 1 || asSymbol(shape[dims[0]!]!) !== batch) {
      refuse(node.name, "an input has it in more than one way");
    }
    marks.set(node.outputs[0], { dim: dims[0]!, inner: 1 });
  }
  for (const call of plannedCalls(graph, opDef)) follow(call);
  const { inputs } = outputOf(graph);
  for (const name of inputs) {
    const { type, ints } = valueOf(graph, name);
    if (ints?.elements.some(has)) refuse(name, "a result is the number of its rows");
    if (!marks.has(name) && (type.shape === undefined || type.shape.some(has))) refuse(name, "it is lost in a result");
  }
  return { symbol: batch, ...endsOf(graph, (value) => marks.get(value)) };

  function follow({ node, shape: { rule, inputs: count, context, known }, names }: PlannedCall): void {
    const shapes = [...context.inputs, ...context.outputs].map((t) => t?.shape);
    const isMarked = names.slice(0, count).some((name) => marks.has(name));
    if ((node.captures ?? []).some((name) => marks.has(name) || valueOf(graph, name).ints?.elements.some(has))) {
      refuse(node.name, `a subgraph of ${node.op} reads it`);
    }
    const readsCount = node.inputs.some((name) => name !== "" && valueOf(graph, name).ints?.elements.some(has));
    const made = shapes.slice(count).some((s) => s === undefined || s.some(has));
    if (readsCount && !made) refuse(node.name, `${node.op} computes with its number of rows`);
    if (!isMarked && !made) return;
    const explained = new Set<number>();
    for (const factor of rule.factors) {
      const places = [...factor.inputs, ...factor.outputs];
      const inner = innerOf(places, shapes, names);
      if (inner === undefined) continue;
      places.forEach((at, tensor) => {
        if (!at) {
          if (tensor >= count && names[tensor] !== "" && isMarked) {
            refuse(node.name, `${node.op} is not known to keep its rows apart`);
          }
          return;
        }
        if (names[tensor] === "" || known[tensor]) return;
        const mark = marks.get(names[tensor]!);
        const fits = at.outer === 1 && at.offset === 0;
        if (tensor < count && !mark) refuse(node.name, `${node.op} meets rows that are not known to be apart`);
        if (!fits || (mark && tensor < count && mark.dim !== at.dim)) {
          refuse(node.name, `${node.op} is not known to keep its rows apart`);
        }
        if (tensor >= count) marks.set(names[tensor]!, { dim: at.dim, inner: dimMul(inner, at.inner) });
        explained.add(tensor);
      });
    }
    names.forEach((name, tensor) => {
      if (name === "" || explained.has(tensor) || known[tensor]) return;
      const isInput = tensor < count;
      if (isInput ? marks.has(name) || shapes[tensor]?.some(has) : !shapes[tensor] || shapes[tensor]!.some(has)) {
        refuse(node.name, `${node.op} is not known to keep its rows apart`);
      }
    });
  }

  /** Elements of a factor's index for each row, where the factor is led by the batch; undefined where it is none. */
  function innerOf(
    places: PlannedCall["shape"]["rule"]["factors"][number]["inputs"],
    shapes: readonly (Shape | undefined)[],
    names: readonly string[],
  ): Dim | undefined {
    for (const [tensor, at] of places.entries()) {
      if (!at) continue;
      const size = shapes[tensor]?.[at.dim];
      if (size === undefined || !has(size) || at.outer !== 1 || at.offset !== 0) continue;
      const mark = marks.get(names[tensor]!);
      if (mark && mark.dim !== at.dim) continue;
      // Of a dim that nothing says more of, the batch is what is left without its symbol.
      const each = mark?.inner ?? dimDivide(size, symbol(batch));
      const inner = each === undefined ? undefined : dimDivide(each, at.inner);
      if (inner !== undefined) return inner;
    }
    return undefined;
  }
}

/** Inputs and results that have the batch. */
function endsOf(graph: Graph<"global">, dimOf: (value: string) => BatchDim | undefined): Omit<Batch, "symbol"> {
  const inputs = new Map<string, BatchDim>(), outputs = new Map<string, BatchDim>();
  const put = (into: Map<string, BatchDim>, name: string, value: string) => {
    const dim = dimOf(value);
    if (dim) into.set(name, dim);
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
