/**
 * Reductions as NCCL can do them. Its maximum and minimum ignore NaN, it sums 16-bit floats in 16 bits, and it has neither bitwise nor
 * logical operations; so host arrays travel as they do over MPI (see ../mpi/wire.ts), in a form whose integer operations mean the same.
 * What has no such form is gathered, and reduced by each rank.
 */
import { NCCL_ENUM as N } from "../../../ffi/nccl.ts";
import { UnavailableError } from "../../../core/errors.ts";
import type { CommDType, ReduceOpName } from "../buffers.ts";
import { type Wire, wireOf, type WireType } from "../mpi/wire.ts";
import { isPairOp } from "../operations.ts";

/** How a reduction travels. */
export interface NcclWire {
  /** `ncclDataType_t` and `ncclRedOp_t`. */
  readonly type: number;
  readonly op: number;
  readonly itemBytes: number;
  readonly encode: Wire["encode"];
  readonly decode: Wire["decode"];
}

const TYPES: Readonly<Partial<Record<WireType, number>>> = {
  ...{ i8: N.ncclInt8, u8: N.ncclUint8, i32: N.ncclInt32, u32: N.ncclUint32, i64: N.ncclInt64, u64: N.ncclUint64 },
  ...{ f32: N.ncclFloat32, f64: N.ncclFloat64 },
};
const OPS: Readonly<Partial<Record<ReduceOpName, number>>> = {
  ...{ sum: N.ncclSum, prod: N.ncclProd, max: N.ncclMax, min: N.ncclMin, avg: N.ncclAvg },
};

/** How `op` on host arrays of `dtype` travels; undefined where it has to be gathered. @throws {InputError} If it is not defined. */
export function ncclWireOf(dtype: CommDType, op: ReduceOpName): NcclWire | undefined {
  if (isPairOp(op)) return undefined;
  if ((dtype === "i8" || dtype === "u8") && (op === "sum" || op === "prod")) {
    return { type: TYPES[dtype]!, op: OPS[op]!, itemBytes: 1, encode: undefined, decode: undefined };
  }
  const { itemBytes, encode, decode, ...wire } = wireOf(dtype, op), type = TYPES[wire.type];
  if (type === undefined) return undefined; // f16 and bf16 in their order are 16-bit integers
  const direct = OPS[wire.op];
  if (direct !== undefined) return { type, op: direct, itemBytes, encode, decode };
  if (encode === undefined || decode === undefined) return undefined; // bits of integers
  // Truths are bytes 0 and 1.
  if (wire.op === "bor") return { type, op: N.ncclMax, itemBytes, encode, decode };
  if (wire.op === "band") return { type, op: N.ncclMin, itemBytes, encode, decode };
  const odd: Wire["decode"] = (sums, out, contributors) => {
    for (let i = 0; i < sums.length; i++) sums[i]! &= 1;
    decode(sums, out, contributors);
  };
  return { type, op: N.ncclSum, itemBytes, encode, decode: odd };
}

/** `ncclDataType_t` of tensors on the GPU. */
const DEVICE_TYPES: Readonly<Partial<Record<CommDType, number>>> = {
  ...TYPES,
  ...{ f16: N.ncclFloat16, bf16: N.ncclBfloat16 },
};

/** The type of elements on the GPU that NCCL reduces. @throws {UnavailableError} If it cannot. */
export function deviceType(dtype: CommDType): number {
  const type = DEVICE_TYPES[dtype];
  if (type !== undefined) return type;
  throw new UnavailableError(`Cannot reduce ${dtype} on the GPU: NCCL has no such type`, {
    hint: "convert it first, or pass host arrays, which any backend reduces",
  });
}

/** The operation on the GPU. @throws {UnavailableError} If NCCL does not have it. */
export function deviceOp(op: ReduceOpName): number {
  const found = OPS[op];
  if (found !== undefined) return found;
  throw new UnavailableError(`Cannot reduce by ${op} on the GPU: NCCL has no such operation`, {
    hint: "pass host arrays, which any backend reduces; mpi and shm do it without gathering",
  });
}

/** Whether NCCL reduces `dtype` by `op` where it lies. */
export function reducesOnDevice(dtype: CommDType, op: ReduceOpName): boolean {
  const float = dtype === "f32" || dtype === "f64" || dtype === "f16" || dtype === "bf16";
  return DEVICE_TYPES[dtype] !== undefined && OPS[op] !== undefined && (op !== "avg" || float);
}
