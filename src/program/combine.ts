/** The beginning of a segment: what all ranks wrote, combined where it lies. */
import { type Dim, dimEquals } from "../core/dim.ts";
import { dtypeInfo } from "../core/dtype.ts";
import { GraphError } from "../core/errors.ts";
import { int } from "../graph/attributes.ts";
import { type GraphBuilder, inlineData } from "../graph/builder.ts";
import type { Attributes, Collective, Stage, Value } from "../graph/graph.ts";
import { assemble, flatten, type Layout, localSize, type Range } from "../graph/layout.ts";
import type { Shape, TensorType } from "../graph/types.ts";
import { inferredTarget } from "../ops/known_ints.ts";

/** What a collective is combined from. */
export interface Combination {
  /** The names under which the ranks' tensors can be read, by rank. */
  readonly peers: readonly string[];
  /** The result: its name and local type. */
  readonly value: Value;
  readonly rank: number;
  /** The name under which a tensor of sizes can be read. */
  readonly sizes: (elements: readonly Dim[]) => string;
}

/** Appends the ops that compute a collective's result from all ranks' tensors: sums and concatenations, in rank order. */
export function combine<S extends Stage>(builder: GraphBuilder<S>, node: Collective, to: Combination): void {
  const emit = emitter(builder, to);
  switch (node.collective) {
    case "all_reduce":
      return reduce(emit, node, to.peers);
    case "reduce_scatter": {
      const { dim, layout } = node.shard!;
      const parts = to.peers.map((peer) => scatter(emit, peer, { dim, layout: flatten(layout), to }));
      return reduce(emit, node, parts);
    }
    case "all_gather":
      return gather(emit, node.shard!, to);
    case "slice":
    case "mask":
      throw new GraphError(`Cannot combine "${node.inputs[0]}": ${node.collective} does not communicate`);
  }
}

function reduce(emit: Emitter, node: Collective, parts: readonly string[]): void {
  const op = { sum: "Sum", max: "Max", min: "Min" }[node.reduction ?? "sum"];
  // ONNX's Sum is for floats only.
  if (op !== "Sum" || emit.float || parts.length < 2) {
    return emit.last(op === "Sum" && !emit.float ? "Identity" : op, parts);
  }
  // Before opset 14, Add takes no integers of less than 32 bits.
  const narrow = emit.bits < 32;
  const terms = narrow ? parts.map((part) => emit.op("Cast", [part], { to: int(dtypeInfo("i32").onnx) })) : [...parts];
  const last = terms.pop()!, before = terms.reduce((sum, term) => emit.op("Add", [sum, term]));
  if (!narrow) return emit.last("Add", [before, last]);
  emit.last("Cast", [emit.op("Add", [before, last])], { to: int(emit.onnx) });
}

/** This rank's ranges of a peer's whole tensor. */
function scatter(emit: Emitter, peer: string, cut: { dim: number; layout: Layout; to: Combination }): string {
  const { dim, layout, to } = cut;
  const ranges = layout.parts[to.rank]!;
  if (dimEquals(layout.outer, 1)) return emit.ranges(peer, dim, ranges);
  const shape = to.value.type.shape!;
  const opened = emit.reshape(peer, openTarget(shape, dim, { outer: layout.outer, block: layout.size }));
  return emit.reshape(emit.ranges(opened, dim + 1, ranges), shape);
}

function gather(emit: Emitter, shard: { dim: number; layout: Layout }, to: Combination): void {
  const { dim } = shard, layout = flatten(shard.layout);
  const pieces = assemble(layout);
  const plain = pieces.every((p) => p.start === 0 && p.end === localSize(layout, p.rank));
  const take = (from: string, at: number, p: typeof pieces[number]) =>
    plain ? from : emit.ranges(from, at, [[p.start, p.end]]);
  if (dimEquals(layout.outer, 1)) {
    const parts = pieces.map((p) => take(to.peers[p.rank]!, dim, p));
    // Of a dim of size 0 there are no pieces: every rank has all of it.
    if (parts.length < 2) return emit.last("Identity", parts.length === 1 ? parts : [to.peers[to.rank]!]);
    return emit.last("Concat", parts, { axis: int(dim) });
  }
  // A merged dim [outer · block]: opened on every rank, the blocks put together inside, and merged again.
  const shape = to.value.type.shape!;
  const opened = new Map([...new Set(pieces.map((p) => p.rank))].map((r) => {
    const target = openTarget(shape, dim, { outer: layout.outer, block: localSize(layout, r) });
    return [r, emit.reshape(to.peers[r]!, target)] as const;
  }));
  const parts = pieces.map((p) => take(opened.get(p.rank)!, dim + 1, p));
  const joined = parts.length === 1 ? parts[0]! : emit.op("Concat", parts, { axis: int(dim + 1) });
  emit.last("Reshape", [joined, to.sizes(inferredTarget(shape))]);
}

/** The shape in which dim `dim` is opened into [outer, block]. */
function openTarget(shape: Shape, dim: number, into: { outer: Dim; block: number }): Dim[] {
  return [...shape.slice(0, dim), into.outer, into.block, ...shape.slice(dim + 1)];
}

interface Emitter {
  /** Whether the elements are floats. */
  readonly float: boolean;
  /** Bits of an element. */
  readonly bits: number;
  /** ONNX's number of the dtype. */
  readonly onnx: number;
  op(op: string, inputs: readonly string[], attributes?: Attributes): string;
  /** The op that writes the result. */
  last(op: string, inputs: readonly string[], attributes?: Attributes): void;
  ints(values: readonly number[]): string;
  ranges(input: string, dim: number, ranges: readonly Range[]): string;
  reshape(input: string, target: readonly Dim[]): string;
}

function emitter<S extends Stage>(builder: GraphBuilder<S>, to: Combination): Emitter {
  const { value } = to;
  const open: TensorType = { dtype: value.type.dtype, shape: undefined };
  const append = (op: string, inputs: readonly string[], attributes: Attributes, out: Value) =>
    builder.call({ kind: "call_function", domain: "", op, inputs, outputs: [out.name], attributes }, [out]);
  const emit: Emitter = {
    ...dtypeInfo(value.type.dtype ?? "f32"),
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
    reshape: (input, target) => emit.op("Reshape", [input, to.sizes(inferredTarget(target))]),
  };
  return emit;
}
