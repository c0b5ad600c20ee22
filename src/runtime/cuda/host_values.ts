/** Tensors between the host, where they have the model's dtype, and the GPU, where they may be held in another. */
import { byteLength, type DType } from "../../core/dtype.ts";
import { GraphError } from "../../core/errors.ts";
import { bf16ArrayToF32, f16ArrayToF32, f32ArrayToBf16, f32ArrayToF16 } from "../../core/half.ts";
import { type HostTensor, hostTensorBytes, hostTensorFromBytes } from "../../core/host_tensor.ts";

/** Elements of dtype `from` as `to`; the same bytes where both are one. @throws {GraphError} Unless both are floats of 16 or 32 bits. */
export function convertBytes(bytes: Uint8Array, from: DType, to: DType): Uint8Array {
  if (from === to) return bytes;
  const { data } = hostTensorFromBytes(from, [8 * bytes.length / bitsOf(from)], bytes);
  const wide = data instanceof Float32Array
    ? data
    : from === "f16"
    ? f16ArrayToF32(data as Uint16Array)
    : bf16ArrayToF32(data as Uint16Array);
  const result = to === "f32" ? wide : to === "f16" ? f32ArrayToF16(wide) : f32ArrayToBf16(wide);
  return new Uint8Array(result.buffer, result.byteOffset, result.byteLength);
}

function bitsOf(dtype: DType): number {
  if (dtype === "f32") return 32;
  if (dtype === "f16" || dtype === "bf16") return 16;
  throw new GraphError(`Cannot hold ${dtype} in another dtype`);
}

/** The bytes of `tensor` as `dtype`. */
export function bytesAs(tensor: HostTensor, dtype: DType): Uint8Array {
  return convertBytes(hostTensorBytes(tensor), tensor.dtype, dtype);
}

/** The tensor of `dtype` that `bytes` of dtype `held` are. */
export function tensorOf(
  bytes: Uint8Array,
  { held, dtype, shape }: { readonly held: DType; readonly dtype: DType; readonly shape: readonly number[] },
): HostTensor {
  return hostTensorFromBytes(dtype, shape, convertBytes(bytes, held, dtype));
}

/** Elements of a shape. */
export function elements(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

/** Bytes of a tensor. */
export function sizeOf({ dtype, shape }: { readonly dtype: DType; readonly shape: readonly number[] }): number {
  return byteLength(dtype, elements(shape));
}
