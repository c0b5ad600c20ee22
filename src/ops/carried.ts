/** Which operands carry a state from step to step. */
import type { TypedContext } from "./def.ts";

/**
 * Whether input 0 may be a state that a Concat extends along `axis`: of a symbolic size there (the past), with the other
 * operand's dims, and of a float type. Whether it is a graph input and the result a graph output, the pass looks at.
 */
export function isStateDim({ inputs, outputs }: TypedContext, axis: number): boolean {
  const [past, step] = inputs;
  const rank = outputs[0]?.shape?.length;
  if (inputs.length !== 2 || !past?.shape || !step?.shape || rank === undefined) return false;
  const a = axis < 0 ? axis + rank : axis;
  return past.dtype !== "i64" && past.dtype !== "i32" && past.dtype !== "bool" && typeof past.shape[a] !== "number";
}
