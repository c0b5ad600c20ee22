/** Shape arithmetic that several definitions need. */
import { type Dim, dimEquals } from "../core/dim.ts";
import { ShapeError } from "../core/errors.ts";
import { intsOf } from "../graph/attributes.ts";
import type { Shape, TensorType } from "../graph/types.ts";
import type { InferContext, LocalizeContext, TypedContext } from "./def.ts";
import { constantInts } from "./known_ints.ts";

/** The non-negative index of `axis` among `rank` dims. @throws {ShapeError} If it is out of range. */
export function normalizeAxis(axis: number, rank: number): number {
  const a = axis < 0 ? axis + rank : axis;
  if (a < 0 || a >= rank) throw new ShapeError(`Cannot use axis ${axis} on a tensor of ${rank} dims`);
  return a;
}

/**
 * The broadcast of two shapes (ONNX: numpy's rules). Where two different symbols meet they are taken to be equal, as
 * exporters name one size in several ways; the shorter name wins, a number wins over a symbol.
 */
export function broadcast(a: Shape, b: Shape): Shape {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const x = a[i - rank + a.length] ?? 1, y = b[i - rank + b.length] ?? 1;
    return broadcastDim(x, y);
  });
}

function broadcastDim(x: Dim, y: Dim): Dim {
  if (x === 1) return y;
  if (y === 1 || dimEquals(x, y)) return x;
  if (typeof x === "number" && typeof y === "number") {
    throw new ShapeError(`Cannot broadcast sizes ${x} and ${y}`, { hint: "one of them must be 1, or both equal" });
  }
  if (typeof x === "number") return x;
  if (typeof y === "number") return y;
  return y.toString().length < x.toString().length ? y : x;
}

/** The one size that two names of it mean: a number wins, then the shorter name. */
export function unifyDim(x: Dim, y: Dim): Dim {
  return x === 1 || y === 1 ? (typeof x === "number" ? x : y) : broadcastDim(x, y);
}

/** The shape of input `i`. @throws {ShapeError} If the input is missing or has fewer than `least` dims. */
export function requireShape(context: InferContext, i: number, least = 0): Shape {
  const shape = context.inputs[i]?.shape;
  if (!shape || shape.length < least) {
    const found = shape ? `[${shape}]` : "none";
    throw new ShapeError(
      `Cannot infer ${context.node.op} "${context.node.name}": input ${i} needs at least ${least} dims, found ${found}`,
    );
  }
  return shape;
}

/** A type of which only the dtype is known. */
export function unknownShape(like: TensorType | undefined): TensorType {
  return { dtype: like?.dtype, shape: undefined };
}

/**
 * The axes of an op that takes them as attribute (older opsets) or as input `position`: numbers, `"none"` where they are
 * left out, or undefined where only data tells.
 */
export function axesOf(
  context: Pick<InferContext | TypedContext, "attributes" | "inputs" | "ints">,
  position: number,
): readonly number[] | "none" | undefined {
  const attribute = intsOf(context.attributes, "axes");
  if (attribute) return attribute;
  if (context.inputs[position] === undefined) return "none";
  return constantInts(context.ints[position]);
}

/** Emits the node as it is: for a rank on which nothing about it changes. */
export function emitUnchanged(context: LocalizeContext): readonly string[] {
  const { node, names, attributes, emit } = context;
  return emit.ops(node.op, names, attributes, { domain: node.domain, outputs: node.outputs.length });
}
