/** Tensors between the host, where they have the model's dtype, and the GPU, where they may be held in another. */
import { byteLength, type DType } from "../../core/dtype.ts";
import { GraphError } from "../../core/errors.ts";
import { type HostTensor, hostTensorBytes, hostTensorFromBytes } from "../../core/host_tensor.ts";
import { convertFloats, isShortFloat } from "../../core/narrow_floats.ts";

/** Elements of dtype `from` as `to`; the same bytes where both are one. @throws {GraphError} Unless both are floats of 16 or 32 bits. */
export function convertBytes(bytes: Uint8Array, from: DType, to: DType): Uint8Array {
  if (from === to) return bytes;
  if (!isShortFloat(from) || !isShortFloat(to)) throw new GraphError(`Cannot hold ${from} in ${to}`);
  const { data } = hostTensorFromBytes(from, [bytes.length / byteLength(from, 1)], bytes);
  const result = convertFloats(data as Float32Array | Uint16Array, from, to);
  return new Uint8Array(result.buffer as ArrayBuffer, result.byteOffset, result.byteLength);
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
