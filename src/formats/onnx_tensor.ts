/**
 * One TensorProto as a {@linkcode TensorSource}: raw bytes, typed fields or external data; checked against the file before any
 * memory is taken.
 */
import { isAbsolute, join } from "node:path";
import { type DType, dtypeFromOnnx, dtypeInfo } from "../core/dtype.ts";
import { FormatError } from "../core/errors.ts";
import type { ByteSource } from "./mapped_file.ts";
import { DATA_LOCATION, type TensorProto } from "./onnx_messages.ts";
import { fileTensor, memoryTensor, type TensorSource } from "./tensor_source.ts";

/** What a tensor needs to know of its model. */
export interface TensorContext {
  /** The model's path, for errors. */
  readonly path: string;
  /** The bytes that the model was decoded from: the whole file. */
  readonly file: Uint8Array;
  /** The file that external data at `location` (as the model spells it) lies in. @throws {FormatError} */
  readonly external: (location: string, place: () => string) => ByteSource;
}

/**
 * The tensor that `proto` stands for. `place` names it in errors: `initializer "w"`, `attribute "value" of node "c"`.
 *
 * @throws {FormatError} If the type is unknown, a dim is negative or huge, or the data is not exactly as long as type and dims need.
 */
export function onnxTensor(proto: TensorProto, place: () => string, context: TensorContext): TensorSource {
  const fail: Fail = (what, hint) =>
    new FormatError(`Cannot read ${place()} of ${context.path}: ${what}`, hint === undefined ? {} : { hint });
  let dtype: DType;
  try {
    dtype = dtypeFromOnnx(proto.dataType);
  } catch (cause) {
    throw new FormatError(`Cannot read ${place()} of ${context.path}: its data type ${proto.dataType} is unknown`, {
      cause,
    });
  }
  if (proto.segment) throw fail("it is stored in segments, which nothing reads");
  const { shape, count } = shapeOf(proto.dims, fail);
  const spec = { name: proto.name, dtype, shape };

  if (proto.dataLocation === DATA_LOCATION.external) {
    return externalTensor(proto, { ...spec, count, place, context, fail });
  }
  if (proto.dataLocation !== DATA_LOCATION.default) {
    throw fail(`its data location ${proto.dataLocation} is unknown`);
  }
  if (dtype === "string") return stringTensor(proto, { ...spec, count, fail });

  const needed = BigInt(dtypeInfo(dtype).bits) * count;
  if (proto.rawData.length > 0) {
    if (BigInt(proto.rawData.length) !== (needed + 7n) / 8n) {
      throw fail(`${dtype}[${shape}] needs ${(needed + 7n) / 8n} bytes, but raw_data has ${proto.rawData.length}`);
    }
    const inFile = proto.rawData.buffer === context.file.buffer;
    const offset = proto.rawData.byteOffset - context.file.byteOffset;
    return memoryTensor(spec, proto.rawData, inFile ? { path: context.path, offset } : undefined);
  }
  return memoryTensor(spec, typedData(proto, { dtype, shape, count, fail }));
}

/** Sizes are numbers, and exact. */
const MOST = BigInt(Number.MAX_SAFE_INTEGER);

type Fail = (what: string, hint?: string) => FormatError;

function shapeOf(dims: readonly bigint[], fail: Fail): { shape: number[]; count: bigint } {
  let count = 1n;
  const shape: number[] = [];
  for (const d of dims) {
    if (d < 0n) throw fail(`dim ${shape.length} of [${dims}] is negative`);
    if (d > MOST) throw fail(`dim ${shape.length} of [${dims}] is larger than any file`);
    count *= d;
    shape.push(Number(d));
  }
  return { shape, count };
}

interface Described {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly count: bigint;
  readonly fail: Fail;
}

function externalTensor(
  proto: TensorProto,
  { name, dtype, shape, count, fail, place, context }: Described & { place: () => string; context: TensorContext },
): TensorSource {
  const entry = (key: string) => proto.externalData.findLast((e) => e.key === key)?.value;
  const location = entry("location");
  if (!location) throw fail("its data is external, but no location is given");
  if (dtype === "string") throw fail("strings cannot be external data");
  const offset = decimal("offset", entry("offset") ?? "0", fail);
  const needed = (BigInt(dtypeInfo(dtype).bits) * count + 7n) / 8n;
  const given = entry("length");
  if (given !== undefined && decimal("length", given, fail) !== needed) {
    throw fail(`${dtype}[${shape}] needs ${needed} bytes, but its external data has length ${given}`);
  }
  const source = context.external(location, place);
  if (offset + needed > BigInt(source.size)) {
    throw fail(
      `${dtype}[${shape}] needs bytes ${offset} to ${offset + needed} of ${source.path}, which has ${source.size}`,
      "the data file is truncated or belongs to another model: fetch or export both again",
    );
  }
  return fileTensor({ name, dtype, shape, offset: Number(offset) }, source);
}

function decimal(key: string, text: string, fail: Fail): bigint {
  if (!/^\d{1,18}$/.test(text)) {
    throw fail(`the ${key} of its external data is ${JSON.stringify(text)}, which is no number of bytes`);
  }
  return BigInt(text);
}

function stringTensor(proto: TensorProto, { name, dtype, shape, count, fail }: Described): TensorSource {
  if (BigInt(proto.stringData.length) !== count) {
    throw fail(`string[${shape}] needs ${count} strings, but string_data has ${proto.stringData.length}`);
  }
  const refuse = () => {
    throw fail("strings have no fixed size, so they cannot be read as bytes");
  };
  const location = { kind: "inline", bytes: new Uint8Array() } as const;
  return { name, dtype, shape, location, strings: proto.stringData, bytes: refuse, slice: refuse };
}

/** The typed field of each dtype; those of `int32_data` hold one element, or one byte of packed elements, an entry. */
function typedData(proto: TensorProto, { dtype, shape, count, fail }: Omit<Described, "name">): Uint8Array {
  function counted<T>(field: string, values: readonly T[], perElement = 1n): readonly T[] {
    const needed = count * perElement;
    if (BigInt(values.length) === needed) return values;
    throw fail(
      values.length === 0
        ? `${dtype}[${shape}] needs ${count} elements, but it holds no data`
        : `${dtype}[${shape}] needs ${needed} values, but ${field} has ${values.length}`,
    );
  }
  const bytesOf = (a: { buffer: ArrayBufferLike }) => new Uint8Array(a.buffer);
  switch (dtype) {
    case "f32":
      return bytesOf(Float32Array.from(counted("float_data", proto.floatData)));
    case "c64":
      return bytesOf(Float32Array.from(counted("float_data", proto.floatData, 2n)));
    case "f64":
      return bytesOf(Float64Array.from(counted("double_data", proto.doubleData)));
    case "c128":
      return bytesOf(Float64Array.from(counted("double_data", proto.doubleData, 2n)));
    case "i64":
      return bytesOf(BigInt64Array.from(counted("int64_data", proto.int64Data)));
    case "u64":
      return bytesOf(BigUint64Array.from(counted("uint64_data", proto.uint64Data)));
    case "u32":
      return bytesOf(Uint32Array.from(counted("uint64_data", proto.uint64Data), Number));
    case "string":
      throw fail("strings have no fixed size");
    default: {
      const { bits, array } = dtypeInfo(dtype);
      if (bits >= 8) return bytesOf((array as Int32ArrayConstructor).from(counted("int32_data", proto.int32Data)));
      const packed = (count * BigInt(bits) + 7n) / 8n;
      if (BigInt(proto.int32Data.length) !== packed) {
        throw fail(`${dtype}[${shape}] needs ${packed} packed bytes, but int32_data has ${proto.int32Data.length}`);
      }
      return Uint8Array.from(proto.int32Data);
    }
  }
}

/**
 * The path of external data at `location`, as the model spells it; `directory` is the model's folder, `roots` the real folders in which data may lie.
 *
 * @throws {FormatError} If it is absolute, climbs with `..`, or leaves the roots through a link.
 */
export function externalPath(
  location: string,
  { directory, roots, where, path }: { directory: string; roots: readonly string[]; where: string; path: string },
): string {
  const refuse = (why: string) =>
    new FormatError(`Cannot read ${where} of ${path}: its external data ${JSON.stringify(location)} ${why}`, {
      hint: "external data must lie in the model's own folder: move it there, or save the model again",
    });
  if (location.includes("\0")) throw refuse("is no file name");
  if (isAbsolute(location) || /^[A-Za-z]:|^[\\/]/.test(location)) throw refuse("is an absolute path");
  if (location.split(/[\\/]/).includes("..")) throw refuse("leaves the model's folder");
  const joined = join(directory, location);
  let real: string;
  try {
    real = Deno.realPathSync(joined);
  } catch {
    return joined; // opening it says what is wrong, with near names
  }
  if (!roots.some((root) => real.startsWith(join(root, "/")))) {
    throw refuse(`is a link out of the model's folder, to ${real}`);
  }
  return joined;
}
