/** Which reduce operations are defined on which dtypes, for every engine; and the one that begins before the reduction. */
import { byteLength, type DType } from "../../core/dtype.ts";
import { bf16ArrayToF32, f16ArrayToF32, f32ArrayToBf16, f32ArrayToF16 } from "../../core/half.ts";
import { InputError } from "../../core/errors.ts";
import { didYouMean } from "../../core/suggest.ts";
import { type CommDType, type PreMulSum, REDUCE_OPS, type ReduceOp, type ReduceOpName, type View } from "./buffers.ts";
import { decodeF8, encodeF8 } from "./float8.ts";

const FLOATS: readonly CommDType[] = ["f32", "f64", "f16", "bf16", "f8e4m3fn", "f8e5m2"];

/** The name of `op`, as records and messages print it. */
export function nameOf(op: ReduceOp): ReduceOpName | "preMulSum" {
  return typeof op === "string" ? op : "preMulSum";
}

/** Whether `op` reduces pairs of elements. */
export function isPairOp(op: ReduceOp): op is "minloc" | "maxloc" {
  return op === "minloc" || op === "maxloc";
}

/** Whether `op` is defined on `dtype`. */
export function canReduce(dtype: CommDType, op: ReduceOp): boolean {
  if (!isReduceOp(op)) return false;
  if (op === "avg" || typeof op !== "string") return FLOATS.includes(dtype);
  if (op === "band" || op === "bor" || op === "bxor") return !FLOATS.includes(dtype);
  if (isPairOp(op)) return dtype !== "bool";
  return true;
}

/** Whether it is an operation at all; programs without types may pass anything. */
function isReduceOp(op: unknown): op is ReduceOp {
  if (typeof op === "string") return (REDUCE_OPS as readonly string[]).includes(op);
  return typeof op === "object" && op !== null && "preMulSum" in op && typeof op.preMulSum === "number";
}

/** @throws {InputError} Unless `op` is defined on `dtype`. */
export function requireReducible(dtype: CommDType, op: ReduceOp): void {
  if (canReduce(dtype, op)) return;
  if (!isReduceOp(op)) {
    const text: unknown = op, known = typeof text === "string" ? didYouMean(text, REDUCE_OPS) : "";
    throw new InputError(`Cannot reduce by ${Deno.inspect(text)}${known}`, {
      hint: `use one of ${REDUCE_OPS.join(", ")}, or { preMulSum: number }`,
    });
  }
  const name = nameOf(op);
  if (name === "avg" || name === "preMulSum") {
    const hint = name === "avg" ? "use sum and divide" : "multiply before, and use sum";
    throw new InputError(`Cannot reduce ${dtype} by ${name}: it is for floats`, { hint });
  }
  throw new InputError(
    `Cannot reduce ${dtype} by ${name}: it is for ${isPairOp(op) ? "numbers" : "integers and bool"}`,
  );
}

/** @throws {InputError} Unless all of `counts`, in elements, are whole pairs. */
export function requirePairs(op: ReduceOp, counts: readonly number[]): void {
  const odd = counts.find((count) => count % 2 !== 0);
  if (odd === undefined) return;
  throw new InputError(`Cannot reduce ${odd} elements by ${nameOf(op)}: it takes pairs (value, index)`, {
    hint: "put the index behind each value, in the same dtype",
  });
}

/** A copy of `view` with all elements times the factor of `op`, rounded to the dtype. @throws {InputError} Unless for floats. */
export function premultiplied(view: View, op: PreMulSum): View {
  const { dtype, count } = view;
  requireReducible(dtype, op);
  const bytes = new Uint8Array(byteLength(dtype as DType, count));
  bytes.set(view.bytes);
  const scale = (values: Float32Array | Float64Array) => {
    // In f32 the factor is rounded first, as everything else is.
    const factor = values instanceof Float32Array ? Math.fround(op.preMulSum) : op.preMulSum;
    for (let i = 0; i < values.length; i++) values[i]! *= factor;
    return values;
  };
  const halves = new Uint16Array(bytes.buffer, 0, bytes.length >> 1);
  switch (dtype) {
    case "f64":
      scale(new Float64Array(bytes.buffer));
      break;
    case "f32":
      scale(new Float32Array(bytes.buffer));
      break;
    case "f16":
      f32ArrayToF16(scale(f16ArrayToF32(halves)) as Float32Array, halves);
      break;
    case "bf16":
      f32ArrayToBf16(scale(bf16ArrayToF32(halves)) as Float32Array, halves);
      break;
    case "f8e4m3fn":
    case "f8e5m2": {
      const values = new Float32Array(count);
      decodeF8(dtype, bytes, values);
      encodeF8(dtype, scale(values) as Float32Array, bytes);
      break;
    }
    default:
      throw new Error(`Cannot multiply ${dtype}`);
  }
  return { ...view, bytes, symmetric: undefined };
}
