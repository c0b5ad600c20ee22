/** Collectives of a local graph on GPUs: what ranks exchange, and the copies that put it where it belongs. */
import { type Bindings, evalDim } from "../../core/dim.ts";
import { GraphError } from "../../core/errors.ts";
import type { Collective } from "../../graph/graph.ts";
import { assemble, flatten, type Layout, localSize } from "../../graph/layout.ts";
import type { Reduction } from "../../graph/placement.ts";
import { stridesOf } from "../../ops/kernels/access.ts";
import type { KernelTensor, MapStep, Operand } from "../../ops/kernels/kernel.ts";

/** What all ranks do together. */
export type Exchange =
  /** Every rank's `from`, reduced element by element, in `to[0]`. */
  | {
    readonly kind: "reduce";
    readonly from: Operand;
    readonly to: readonly [Operand];
    readonly count: number;
    readonly reduction: Reduction;
  }
  /** Rank r's `from`, of `counts[r]` elements, in `to[r]`. */
  | {
    readonly kind: "gather";
    readonly from: Operand;
    readonly to: readonly Operand[];
    readonly counts: readonly number[];
  };

/** An exchange, and local copies after it. */
export interface CollectiveSteps {
  readonly exchange: Exchange;
  readonly steps: readonly MapStep[];
  readonly scratch: readonly KernelTensor[];
}

interface Context {
  readonly from: KernelTensor;
  readonly to: KernelTensor;
  readonly rank: number;
  readonly ranks: number;
  readonly bindings: Bindings;
}

const count = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

/** What becomes of a collective node. */
export function collectiveSteps(node: Collective, context: Context): CollectiveSteps {
  const { from, to, rank, ranks } = context;
  const input: Operand = { of: "input", index: 0, dtype: from.dtype };
  const output: Operand = { of: "output", index: 0, dtype: to.dtype };
  const scratch = (index: number): Operand => ({ of: "scratch", index, dtype: from.dtype });
  const reduction = node.reduction ?? "sum";
  if (node.collective === "all_reduce") {
    const exchange = { kind: "reduce" as const, from: input, to: [output] as const, count: count(to.shape), reduction };
    return { exchange, steps: [], scratch: [] };
  }
  if (!node.shard) throw new GraphError(`Cannot run ${node.collective} "${node.name}" on a GPU: it has no cut`);
  const { dim } = node.shard, layout = flatten(node.shard.layout);
  const outer = evalDim(layout.outer, context.bindings)!;
  /** A tensor whose cut dim holds `rows` of each block, with the dim opened into blocks and rows. */
  const opened = (
    whole: readonly number[],
    rows: number,
  ) => [...whole.slice(0, dim), outer, rows, ...whole.slice(dim + 1)];
  /** Copies `rows` rows from `at.from` of one opened tensor to `at.to` of another. */
  const copy = (
    rows: number,
    source: { operand: Operand; shape: readonly number[]; at: number },
    target: { operand: Operand; shape: readonly number[]; at: number },
  ): MapStep => {
    const access = ({ operand, shape, at }: typeof source) => {
      const strides = stridesOf(shape);
      return { operand, offset: at * strides[dim + 1]!, strides };
    };
    return {
      kind: "map",
      shape: opened(to.shape, rows),
      reads: [access(source)],
      write: access(target),
      expression: "x0",
    };
  };
  if (node.collective === "reduce_scatter") {
    const whole = opened(from.shape, layout.size), mine = opened(to.shape, localSize(layout, rank));
    let at = 0;
    const steps = layout.parts[rank]!.map(([a, b]) => {
      const step = copy(b - a, { operand: scratch(0), shape: whole, at: a }, { operand: output, shape: mine, at });
      at += b - a;
      return step;
    });
    const exchange = {
      kind: "reduce" as const,
      from: input,
      to: [scratch(0)] as const,
      count: count(from.shape),
      reduction,
    };
    return { exchange, steps, scratch: [from] };
  }
  if (node.collective !== "all_gather") {
    throw new GraphError(`Cannot run ${node.collective} "${node.name}" on a GPU: it does not communicate`);
  }
  return gathered({ layout, outer, to, ranks, dim, input, output, scratch, copy, opened });
}

function gathered(o: {
  readonly layout: Layout;
  readonly outer: number;
  readonly to: KernelTensor;
  readonly ranks: number;
  readonly dim: number;
  readonly input: Operand;
  readonly output: Operand;
  readonly scratch: (index: number) => Operand;
  readonly copy: (
    rows: number,
    source: { operand: Operand; shape: readonly number[]; at: number },
    target: { operand: Operand; shape: readonly number[]; at: number },
  ) => MapStep;
  readonly opened: (whole: readonly number[], rows: number) => number[];
}): CollectiveSteps {
  const { layout, to, ranks, dim } = o;
  const parts = Array.from({ length: ranks }, (_, r) => to.shape.with(dim, o.outer * localSize(layout, r)));
  const whole = o.opened(to.shape, layout.size);
  let at = 0;
  const steps = assemble(layout).map(({ rank, start, end }) => {
    const source = { operand: o.scratch(rank), shape: o.opened(to.shape, localSize(layout, rank)), at: start };
    const step = o.copy(end - start, source, { operand: o.output, shape: whole, at });
    at += end - start;
    return step;
  });
  const exchange = {
    kind: "gather" as const,
    from: o.input,
    to: parts.map((_, r) => o.scratch(r)),
    counts: parts.map(count),
  };
  return { exchange, steps, scratch: parts.map((shape) => ({ dtype: to.dtype, shape })) };
}
