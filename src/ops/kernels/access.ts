/** Shapes and strides: how steps reach into tensors. */
import { GraphError } from "../../core/errors.ts";
import type { Access, KernelContext, KernelTensor, Operand } from "./kernel.ts";

/** The number of elements. */
export function count(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

/** Row-major strides of `shape`. */
export function stridesOf(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length);
  for (let d = shape.length - 1, step = 1; d >= 0; d--) {
    strides[d] = step;
    step *= shape[d]!;
  }
  return strides;
}

/** Input `index` of the call. @throws {GraphError} If it is left out. */
export function inputOf(context: KernelContext, index: number): KernelTensor {
  const tensor = context.inputs[index];
  if (!tensor) throw unknownForm(context, `input ${index} is missing`);
  return tensor;
}

/** Output `index` of the call. @throws {GraphError} If nobody reads it. */
export function outputOf(context: KernelContext, index = 0): KernelTensor {
  const tensor = context.outputs[index];
  if (!tensor) throw unknownForm(context, `output ${index} is missing`);
  return tensor;
}

/** The operand of an input. */
export function input(context: KernelContext, index: number): Operand {
  return { of: "input", index, dtype: inputOf(context, index).dtype };
}

/** The operand of an output. */
export function output(context: KernelContext, index = 0): Operand {
  return { of: "output", index, dtype: outputOf(context, index).dtype };
}

/** The whole of a contiguous tensor of `shape`, dim by dim. */
export function whole(operand: Operand, shape: readonly number[]): Access {
  return { operand, offset: 0, strides: stridesOf(shape) };
}

/** Strides of a tensor in its memory. */
export function stridesIn({ shape, strides }: KernelTensor): readonly number[] {
  return strides ?? stridesOf(shape);
}

/** A tensor of `shape` broadcast to `to`, aligned at the right as ONNX does. */
export function broadcast(
  operand: Operand,
  shape: readonly number[],
  to: readonly number[],
  own: readonly number[] = stridesOf(shape),
): Access {
  const lead = to.length - shape.length;
  return { operand, offset: 0, strides: to.map((_, d) => (d < lead || shape[d - lead] === 1 ? 0 : own[d - lead]!)) };
}

/** Contents of integer input `index`. @throws {GraphError} If the host does not know them. */
export function intsOf(context: KernelContext, index: number): readonly number[] {
  const ints = context.ints[index];
  if (!ints) throw unknownForm(context, `input ${index} is known only on the device`);
  return ints;
}

/** A dim counted from either end. */
export function axisOf(axis: number, rank: number): number {
  return axis < 0 ? axis + rank : axis;
}

/** The error for a call that a lowering cannot serve. */
export function unknownForm({ node }: KernelContext, why: string): GraphError {
  const name = node.domain === "" ? node.op : `${node.domain}.${node.op}`;
  return new GraphError(`Cannot run ${name} "${node.name}" on a GPU: ${why}`, { hint: "run this model on the CPU" });
}
