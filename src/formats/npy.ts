/**
 * NumPy's .npy files (versions 1 to 3): one array each, little-endian. Arrays in Fortran order are transposed when read.
 */
import { type DType, dtypeFromNpy, dtypeInfo } from "../core/dtype.ts";
import { cannotWrite, FormatError } from "../core/errors.ts";
import { type HostTensor, hostTensorBytes, hostTensorFromBytes } from "../core/host_tensor.ts";
import { type ByteSource, openRanges, type OpenSource } from "./mapped_file.ts";

const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59]; // "\x93NUMPY"
/** More than any header of a plain array takes, in bytes. */
const MAX_HEADER = 1 << 20;

/**
 * Reads the array at `path`.
 *
 * @throws {FormatError} If it is no .npy file, truncated, big-endian, or of a type that has no dtype here (structured, object, dates).
 */
export function readNpy(path: string, options: { open?: OpenSource } = {}): HostTensor {
  using source = (options.open ?? openRanges)(path);
  const { dtype, shape, fortran, offset } = readHeader(source);
  const count = shape.reduce((n, d) => n * BigInt(d), 1n);
  const needed = count * BigInt(dtypeInfo(dtype).bits / 8);
  if (BigInt(offset) + needed > BigInt(source.size)) {
    throw failure(path, `${dtype}[${shape}] needs ${needed} bytes, but ${source.size - offset} follow the header`);
  }
  // A copy: the source is closed when this returns.
  const bytes = source.bytes(offset, Number(needed)).slice();
  return hostTensorFromBytes(dtype, shape, fortran && shape.length > 1 ? toRowMajor(bytes, shape) : bytes);
}

/**
 * Writes `tensor` to `path`, as version 1.
 *
 * @throws {FormatError} If NumPy has no type for its dtype (bf16, floats of 8 bits, packed integers).
 */
export async function writeNpy(path: string, tensor: HostTensor): Promise<void> {
  const { npy } = dtypeInfo(tensor.dtype);
  if (npy === undefined) {
    throw new FormatError(`Cannot write ${path}: NumPy has no type for ${tensor.dtype}`, {
      hint: "cast it, or write a .safetensors file",
    });
  }
  const { shape } = tensor;
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(", ")})`;
  const dict = `{'descr': '${npy}', 'fortran_order': False, 'shape': ${tuple}, }`;
  const total = Math.ceil((10 + dict.length + 1) / 64) * 64; // the data starts at a multiple of 64
  const start = new Uint8Array(total).fill(0x20);
  start.set(MAGIC);
  start.set([1, 0, (total - 10) & 0xff, (total - 10) >> 8], 6);
  start.set(new TextEncoder().encode(dict), 10);
  start[total - 1] = 0x0a;
  try {
    using file = await Deno.open(path, { write: true, create: true, truncate: true });
    for (const part of [start, hostTensorBytes(tensor)]) {
      for (let at = 0; at < part.length;) at += await file.write(part.subarray(at));
    }
  } catch (cause) {
    throw cannotWrite(path, cause);
  }
}

interface Header {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly fortran: boolean;
  /** Where the data starts, in bytes. */
  readonly offset: number;
}

function readHeader(source: ByteSource): Header {
  const { path, size } = source;
  const head = source.bytes(0, Math.min(size, 12));
  if (size < 10 || MAGIC.some((b, i) => head[i] !== b)) throw failure(path, "it does not start as a .npy file does");
  const major = head[6]!;
  if (major < 1 || major > 3) throw failure(path, `its version ${major}.${head[7]} is unknown`);
  const wide = major > 1;
  if (wide && size < 12) throw failure(path, "it ends in its header");
  const length = wide
    ? head[8]! + head[9]! * 2 ** 8 + head[10]! * 2 ** 16 + head[11]! * 2 ** 24
    : head[8]! + head[9]! * 2 ** 8;
  const begin = wide ? 12 : 10;
  if (length > Math.min(MAX_HEADER, size - begin)) {
    throw failure(
      path,
      `its header should have ${length} bytes, but ${size - begin} follow and ${MAX_HEADER} are allowed`,
    );
  }
  const text = new TextDecoder(major === 3 ? "utf-8" : "latin1").decode(source.bytes(begin, length));
  const descr = /'descr'\s*:\s*'([^']*)'/.exec(text)?.[1];
  const fortran = /'fortran_order'\s*:\s*(True|False)/.exec(text)?.[1];
  const dims = /'shape'\s*:\s*\(([\d\s,L]*)\)/.exec(text)?.[1];
  if (descr === undefined || fortran === undefined || dims === undefined) {
    throw failure(path, `its header is ${JSON.stringify(text.trim().slice(0, 200))}, not that of a plain array`);
  }
  const shape = (dims.match(/\d+/g) ?? []).map(Number);
  if (!shape.every(Number.isSafeInteger)) throw failure(path, `its shape (${dims}) is larger than any file`);
  return { dtype: dtypeOf(descr, path), shape, fortran: fortran === "True", offset: begin + length };
}

function dtypeOf(descr: string, path: string): DType {
  // Types of one byte are spelt with any byte order, and native order is little-endian on every machine that Deno runs on.
  const spelt = /^[<>=|]?[biu]1$/.test(descr) ? `|${descr.slice(-2)}` : descr.replace(/^=/, "<");
  if (spelt.startsWith(">")) {
    throw failure(
      path,
      `its type ${JSON.stringify(descr)} is big-endian`,
      'save it with .astype(a.dtype.newbyteorder("<"))',
    );
  }
  let dtype: DType;
  try {
    dtype = dtypeFromNpy(spelt);
  } catch {
    throw failure(path, `its type ${JSON.stringify(descr)} is unknown`, "save it as plain numbers");
  }
  if (!dtypeInfo(dtype).array) {
    throw failure(path, `its type ${JSON.stringify(descr)} is complex, which no input takes`);
  }
  return dtype;
}

/** The same array in row-major order, from bytes whose first dim varies fastest. */
function toRowMajor(bytes: Uint8Array, shape: readonly number[]): Uint8Array {
  const count = shape.reduce((n, d) => n * d, 1);
  if (count === 0) return bytes;
  const unit = bytes.length / count;
  const strides = shape.map((_, d) => unit * shape.slice(0, d).reduce((n, s) => n * s, 1));
  const out = new Uint8Array(bytes.length);
  const index = shape.map(() => 0);
  let from = 0;
  for (let to = 0; to < out.length; to += unit) {
    for (let b = 0; b < unit; b++) out[to + b] = bytes[from + b]!;
    for (let d = shape.length - 1; d >= 0; d--) {
      from += strides[d]!;
      if (++index[d]! < shape[d]!) break;
      from -= strides[d]! * shape[d]!;
      index[d] = 0;
    }
  }
  return out;
}

function failure(path: string, what: string, hint?: string): FormatError {
  return new FormatError(`Cannot read ${path} as .npy: ${what}`, hint === undefined ? {} : { hint });
}
