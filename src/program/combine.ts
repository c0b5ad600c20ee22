/** The beginning of a segment: what all ranks wrote, combined where it lies. */
import { dimEquals } from "../core/dim.ts";
import { GraphError } from "../core/errors.ts";
import { int } from "../graph/attributes.ts";
import { type GraphBuilder, inlineData } from "../graph/builder.ts";
import type { Attributes, Collective, Stage, Value } from "../graph/graph.ts";
import { assemble, type Layout, localSize, type Range } from "../graph/layout.ts";
import type { Shape, TensorType } from "../graph/types.ts";

/** What a collective is combined from. */
export interface Combination {
  /** The names under which the ranks' tensors can be read, by rank. */
  readonly peers: readonly string[];
  /** The result: its name and local type. */
  readonly value: Value;
  readonly rank: number;
}

/** Appends the ops that compute a collective's result from all ranks' tensors: sums and concatenations, in rank order. */
export function combine<S extends Stage>(builder: GraphBuilder<S>, node: Collective, to: Combination): void {
  const emit = emitter(builder, to.value);
  switch (node.collective) {
    case "all_reduce":
      return emit.last(reduceOp(node), to.peers);
    case "reduce_scatter": {
      const { dim, layout } = node.shard!;
      if (!dimEquals(layout.outer, 1)) throw new GraphError(`Cannot scatter a merged dim of "${node.inputs[0]}"`);
      const parts = to.peers.map((peer) => emit.ranges(peer, dim, layout.parts[to.rank]!));
      return emit.last(reduceOp(node), parts);
    }
    case "all_gather":
      return gather(emit, node.shard!, to);
    case "slice":
    case "mask":
      throw new GraphError(`Cannot combine "${node.inputs[0]}": ${node.collective} does not communicate`);
  }
}

function reduceOp(node: Collective): string {
  return { sum: "Sum", max: "Max", min: "Min" }[node.reduction ?? "sum"];
}

function gather(emit: Emitter, shard: { dim: number; layout: Layout }, to: Combination): void {
  const { dim, layout } = shard;
  const pieces = assemble(layout);
  const plain = pieces.every((p) => p.start === 0 && p.end === localSize(layout, p.rank));
  if (dimEquals(layout.outer, 1)) {
    const parts = pieces.map((p) =>
      plain ? to.peers[p.rank]! : emit.ranges(to.peers[p.rank]!, dim, [[p.start, p.end]])
    );
    return parts.length === 1 ? emit.last("Identity", parts) : emit.last("Concat", parts, { axis: int(dim) });
  }
  // A merged dim [outer · block]: the blocks are put together inside. The outer size is not constant, so it is opened
  // with Reshape's "copy this dim" (0) where it is a dim of its own, else inferred (-1).
  const opened = to.peers.map((peer, r) =>
    emit.reshape(peer, openTarget(to.value.type.shape!, dim, localSize(layout, r)))
  );
  const parts = pieces.map((p) => plain ? opened[p.rank]! : emit.ranges(opened[p.rank]!, dim + 1, [[p.start, p.end]]));
  const joined = parts.length === 1 ? parts[0]! : emit.op("Concat", parts, { axis: int(dim + 1) });
  const merged = to.value.type.shape!.map((_, i) => (i < dim ? 0 : i === dim ? -1 : numberAt(to.value.type.shape!, i)));
  emit.last("Reshape", [joined, emit.ints(merged)]);
}

/** Reshape's target that opens dim `dim` into [outer, block]. */
function openTarget(shape: Shape, dim: number, block: number): number[] {
  return [
    ...shape.slice(0, dim).map(() => 0),
    -1,
    block,
    ...shape.slice(dim + 1).map((_, i) => numberAt(shape, dim + 1 + i)),
  ];
}

function numberAt(shape: Shape, i: number): number {
  const d = shape[i]!;
  if (typeof d !== "number") throw new GraphError(`Cannot gather a merged dim before the symbolic dim ${d}`);
  return d;
}

interface Emitter {
  op(op: string, inputs: readonly string[], attributes?: Attributes): string;
  /** The op that writes the result. */
  last(op: string, inputs: readonly string[], attributes?: Attributes): void;
  ints(values: readonly number[]): string;
  ranges(input: string, dim: number, ranges: readonly Range[]): string;
  reshape(input: string, target: readonly number[]): string;
}

function emitter<S extends Stage>(builder: GraphBuilder<S>, value: Value): Emitter {
  const open: TensorType = { dtype: value.type.dtype, shape: undefined };
  const append = (op: string, inputs: readonly string[], attributes: Attributes, out: Value) =>
    builder.call({ kind: "call_function", domain: "", op, inputs, outputs: [out.name], attributes }, [out]);
  const emit: Emitter = {
    op: (op, inputs, attributes = {}) => {
      const name = builder.freshValue(`${value.name}.${op}`);
      append(op, inputs, attributes, { name, type: open });
      return name;
    },
    last: (op, inputs, attributes = {}) => void append(op, inputs, attributes, value),
    ints: (values) => {
      const name = builder.freshValue(`${value.name}.ints`);
      builder.getAttr(name, inlineData("i64", [values.length], BigInt64Array.from(values, (n) => BigInt(n))));
      return name;
    },
    ranges: (input, dim, ranges) => {
      const list = ranges.length > 0 ? ranges : [[0, 0] as Range];
      const parts = list.map(([a, b]) => emit.op("Slice", [input, emit.ints([a]), emit.ints([b]), emit.ints([dim])]));
      return parts.length === 1 ? parts[0]! : emit.op("Concat", parts, { axis: int(dim) });
    },
    reshape: (input, target) => emit.op("Reshape", [input, emit.ints(target)]),
  };
  return emit;
}
