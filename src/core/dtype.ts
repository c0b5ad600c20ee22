/** The element types of tensors: one table with every name, code and array type that other rooms need. */
import { FormatError } from "./errors.ts";

/** One row of the table. */
export interface DTypeInfo {
  /** Bits of one element; 0 for strings, which have no fixed size. */
  readonly bits: number;
  /** `TensorProto.DataType` of ONNX. */
  readonly onnx: number;
  /** ONNX Runtime's name in its JavaScript binding, if it has the type. */
  readonly ort?: string;
  /** Name in a safetensors header. */
  readonly safetensors?: string;
  /** Type string of NPY, little-endian. */
  readonly npy?: string;
  /** Floating point (true), integer or bool (false). */
  readonly float: boolean;
  /** The typed array that holds elements; 16-bit and smaller floats are held as their bits. */
  readonly array?: TypedArrayConstructor;
}

/** Constructors of the typed arrays that hold tensor data. */
export type TypedArrayConstructor =
  | Float32ArrayConstructor
  | Float64ArrayConstructor
  | Int8ArrayConstructor
  | Uint8ArrayConstructor
  | Int16ArrayConstructor
  | Uint16ArrayConstructor
  | Int32ArrayConstructor
  | Uint32ArrayConstructor
  | BigInt64ArrayConstructor
  | BigUint64ArrayConstructor;

/** Typed arrays that hold tensor data. */
export type TypedArray =
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array;

// deno-fmt-ignore
const TABLE = {
  f32:    { bits: 32, onnx: 1,  ort: "float32",  safetensors: "F32",     npy: "<f4", float: true,  array: Float32Array },
  u8:     { bits: 8,  onnx: 2,  ort: "uint8",    safetensors: "U8",      npy: "|u1", float: false, array: Uint8Array },
  i8:     { bits: 8,  onnx: 3,  ort: "int8",     safetensors: "I8",      npy: "|i1", float: false, array: Int8Array },
  u16:    { bits: 16, onnx: 4,  ort: "uint16",   safetensors: "U16",     npy: "<u2", float: false, array: Uint16Array },
  i16:    { bits: 16, onnx: 5,  ort: "int16",    safetensors: "I16",     npy: "<i2", float: false, array: Int16Array },
  i32:    { bits: 32, onnx: 6,  ort: "int32",    safetensors: "I32",     npy: "<i4", float: false, array: Int32Array },
  i64:    { bits: 64, onnx: 7,  ort: "int64",    safetensors: "I64",     npy: "<i8", float: false, array: BigInt64Array },
  string: { bits: 0,  onnx: 8,  ort: "string",                                       float: false },
  bool:   { bits: 8,  onnx: 9,  ort: "bool",     safetensors: "BOOL",    npy: "|b1", float: false, array: Uint8Array },
  f16:    { bits: 16, onnx: 10, ort: "float16",  safetensors: "F16",     npy: "<f2", float: true,  array: Uint16Array },
  f64:    { bits: 64, onnx: 11, ort: "float64",  safetensors: "F64",     npy: "<f8", float: true,  array: Float64Array },
  u32:    { bits: 32, onnx: 12, ort: "uint32",   safetensors: "U32",     npy: "<u4", float: false, array: Uint32Array },
  u64:    { bits: 64, onnx: 13, ort: "uint64",   safetensors: "U64",     npy: "<u8", float: false, array: BigUint64Array },
  c64:    { bits: 64, onnx: 14,                  safetensors: "C64",     npy: "<c8", float: true },
  c128:   { bits: 128, onnx: 15,                                         npy: "<c16", float: true },
  bf16:   { bits: 16, onnx: 16,                  safetensors: "BF16",                float: true,  array: Uint16Array },
  f8e4m3fn:   { bits: 8, onnx: 17,               safetensors: "F8_E4M3",             float: true,  array: Uint8Array },
  f8e4m3fnuz: { bits: 8, onnx: 18,                                                   float: true,  array: Uint8Array },
  f8e5m2:     { bits: 8, onnx: 19,               safetensors: "F8_E5M2",             float: true,  array: Uint8Array },
  f8e5m2fnuz: { bits: 8, onnx: 20,                                                   float: true,  array: Uint8Array },
  u4:     { bits: 4,  onnx: 21, ort: "uint4",                                        float: false, array: Uint8Array },
  i4:     { bits: 4,  onnx: 22, ort: "int4",                                         float: false, array: Uint8Array },
  f4e2m1: { bits: 4,  onnx: 23,                                                      float: true,  array: Uint8Array },
  f8e8m0: { bits: 8,  onnx: 24,                  safetensors: "F8_E8M0",             float: true,  array: Uint8Array },
  u2:     { bits: 2,  onnx: 25,                                                      float: false, array: Uint8Array },
  i2:     { bits: 2,  onnx: 26,                                                      float: false, array: Uint8Array },
} as const satisfies Record<DType, DTypeInfo>;

/** The name of an element type, as graph text prints it: `f32[4,8]`. */
export type DType =
  | "f32"
  | "u8"
  | "i8"
  | "u16"
  | "i16"
  | "i32"
  | "i64"
  | "string"
  | "bool"
  | "f16"
  | "f64"
  | "u32"
  | "u64"
  | "c64"
  | "c128"
  | "bf16"
  | "f8e4m3fn"
  | "f8e4m3fnuz"
  | "f8e5m2"
  | "f8e5m2fnuz"
  | "u4"
  | "i4"
  | "f4e2m1"
  | "f8e8m0"
  | "u2"
  | "i2";

/** All names, in ONNX's order of codes. */
export const DTYPES: readonly DType[] = Object.keys(TABLE) as DType[];

/** The row of `dtype`. */
export function dtypeInfo(dtype: DType): DTypeInfo {
  return TABLE[dtype];
}

/** Whether `name` is the name of a dtype. */
export function isDType(name: string): name is DType {
  return Object.hasOwn(TABLE, name);
}

/** Bytes that `count` elements of `dtype` take; types below 8 bits are packed. */
export function byteLength(dtype: DType, count: number): number {
  return Math.ceil((TABLE[dtype].bits * count) / 8);
}

function finder(column: "onnx" | "ort" | "safetensors" | "npy"): ReadonlyMap<unknown, DType> {
  // u8 and bool share an array type but never a name or code, so each column's values are distinct.
  return new Map(DTYPES.map((d) => [(TABLE[d] as DTypeInfo)[column], d]));
}

const BY_ONNX = finder("onnx"), BY_ORT = finder("ort"), BY_SAFETENSORS = finder("safetensors"), BY_NPY = finder("npy");

/** The dtype of an ONNX `TensorProto.DataType` code. @throws {FormatError} If there is none. */
export function dtypeFromOnnx(code: number): DType {
  return found(BY_ONNX.get(code), `ONNX data type ${code}`);
}

/** The dtype of an ONNX Runtime name such as `float32`. @throws {FormatError} If there is none. */
export function dtypeFromOrt(name: string): DType {
  return found(BY_ORT.get(name), `ONNX Runtime type "${name}"`);
}

/** The dtype of a safetensors name such as `F32`. @throws {FormatError} If there is none. */
export function dtypeFromSafetensors(name: string): DType {
  return found(BY_SAFETENSORS.get(name), `safetensors dtype "${name}"`);
}

/** The dtype of an NPY type string such as `<f4`. @throws {FormatError} If there is none. */
export function dtypeFromNpy(descr: string): DType {
  return found(BY_NPY.get(descr), `NPY dtype "${descr}"`);
}

function found(dtype: DType | undefined, what: string): DType {
  if (dtype === undefined) throw new FormatError(`Cannot read a tensor of ${what}: no such element type is known`);
  return dtype;
}
