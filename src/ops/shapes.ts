/** Shape arithmetic that several definitions need. */
import { type Dim, dimEquals } from "../core/dim.ts";
import { ShapeError } from "../core/errors.ts";
import type { Shape } from "../graph/types.ts";
import type { InferContext } from "./def.ts";

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
