/**
 * Bytes to ModelProto, by the table of onnx_messages.ts. Damage is told with its place in the structure of the model; inner messages
 * that run past their parent are damage.
 *
 * `raw_data` and other bytes of the result are views of the given ones.
 */
import { FormatError } from "../core/errors.ts";
import { type Field, type MessageType, MODEL, type ModelProto, NONE } from "./onnx_messages.ts";
import { StringTable } from "./string_table.ts";

/** How deep messages may nest. */
const MAX_DEPTH = 100;

/**
 * Decodes an ONNX model; `path` names it in errors.
 *
 * @throws {FormatError} If the bytes are no protobuf of a model, naming the first damaged field, as `graph.node[12].attribute[0].t`.
 */
export function decodeModel(bytes: Uint8Array, path: string): ModelProto {
  if (bytes.length === 0) {
    throw new FormatError(`Cannot read ${path} as an ONNX model: the file is empty`, {
      hint: "fetch or export it again",
    });
  }
  const foreign = foreignFormat(bytes);
  if (foreign) throw new FormatError(`Cannot read ${path} as an ONNX model: ${foreign.what}`, { hint: foreign.hint });
  const decoder = new Decoder(bytes);
  try {
    return decoder.message(MODEL, bytes.length, 0) as unknown as ModelProto;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new FormatError(
      `Cannot read ${path} as an ONNX model: ${
        decoder.place || "the first field"
      } is damaged (${reason}), at byte ${decoder.at} of ${bytes.length}`,
      { hint: "the file is truncated, corrupt or no ONNX model: fetch or export it again", cause },
    );
  }
}

function foreignFormat(bytes: Uint8Array): { what: string; hint: string } | undefined {
  const head = new TextDecoder("latin1").decode(bytes.subarray(0, 64));
  if (head.startsWith("version https://git-lfs")) {
    return { what: "it is a Git LFS pointer, not the file itself", hint: "run: git lfs pull" };
  }
  if (head.startsWith("PK\x03\x04")) {
    return { what: "it is a zip archive", hint: "unpack it, or export the model to ONNX" };
  }
  if (/^\s*(<!doctype|<html)/i.test(head)) {
    return { what: "it is a web page", hint: "the download went wrong: fetch it again" };
  }
  if (/^\s*[{[]\s*["{\]}]/.test(head)) return { what: "it is JSON text", hint: "name the .onnx file" };
  if (/^.{8}\{"/s.test(head)) return { what: "it is a safetensors file", hint: "name the .onnx file" };
  return undefined;
}

const VARINT = 0, BIT64 = 1, BYTES = 2, BIT32 = 5;
const WIRE = {
  int32: VARINT,
  int64: VARINT,
  uint64: VARINT,
  float: BIT32,
  double: BIT64,
  string: BYTES,
  bytes: BYTES,
  message: BYTES,
} as const;

class Decoder {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #strings: StringTable;
  /** The next byte. */
  #pos = 0;
  /** The low and high half of the last varint. */
  #low = 0;
  #high = 0;
  /** The fields that are being read, from the model inward, and which of a list. */
  readonly #fields: (Field | undefined)[] = [];
  readonly #indices: number[] = [];
  #depth = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#strings = new StringTable(bytes);
  }

  get at(): number {
    return Math.min(this.#pos, this.#bytes.length);
  }

  /** The field that is being read, as a path from the model. */
  get place(): string {
    const names = this.#fields.slice(0, this.#depth + 1).flatMap((field, i) =>
      field ? [field.isList ? `${field.name}[${this.#indices[i]}]` : field.name] : []
    );
    return names.join(".");
  }

  /** The message up to `end`; `into` holds what was read of it before. */
  message(type: MessageType, end: number, depth: number, into?: Record<string, unknown>): Record<string, unknown> {
    if (depth > MAX_DEPTH) throw new Error(`messages nest deeper than ${MAX_DEPTH}`);
    this.#depth = depth;
    const out = into ?? { ...type.empty };
    while (this.#pos < end) {
      this.#fields[depth] = undefined;
      const start = this.#pos, tag = this.#uint32();
      const number = tag >>> 3, wire = tag & 7, field = type.byNumber[number];
      if (number === 0) throw new Error(`illegal tag: field no 0 wire type ${wire}`);
      if (field === undefined) {
        this.#skip(wire, number, end);
        const unknown = this.#bytes.subarray(start, this.#pos);
        out.unknown = [...(out.unknown as Uint8Array[] | undefined) ?? [], unknown];
      } else {
        this.#fields[depth] = field;
        this.#field(out, field, { wire, end, depth });
      }
      if (this.#pos > end) throw new RangeError("it runs past the end of what holds it");
    }
    this.#fields[depth] = undefined;
    return out;
  }

  #field(
    out: Record<string, unknown>,
    field: Field,
    { wire, end, depth }: { readonly wire: number; readonly end: number; readonly depth: number },
  ): void {
    const { key, kind, isList, oneof } = field, expected = WIRE[kind];
    const list = (isList ? out[key] : NONE) as unknown[];
    if (isList) this.#indices[depth] = list.length;
    if (wire !== expected) {
      // Lists of numbers come packed into one record, or one record each.
      if (!isList || wire !== BYTES) throw new Error(`wire type ${wire} where ${expected} belongs`);
      const stop = this.#stop(end), values = list.slice();
      if (expected !== VARINT && (stop - this.#pos) % (expected === BIT32 ? 4 : 8) !== 0) {
        throw new RangeError(
          `${stop - this.#pos} bytes are no whole number of ${expected === BIT32 ? 4 : 8}-byte elements`,
        );
      }
      while (this.#pos < stop) values.push(this.#number(kind, stop));
      out[key] = values;
      return;
    }
    let value: unknown;
    switch (kind) {
      case "string": {
        const stop = this.#stop(end);
        value = this.#strings.read(this.#pos, stop);
        this.#pos = stop;
        break;
      }
      case "bytes": {
        const stop = this.#stop(end);
        value = this.#bytes.subarray(this.#pos, stop);
        this.#pos = stop;
        break;
      }
      case "message": {
        const stop = this.#stop(end);
        // A message that comes in pieces is all of them together.
        const before = isList ? undefined : oneof === undefined ? out[key] : pieceOf(out[oneof], key);
        value = this.message(field.message!, stop, depth + 1, before as Record<string, unknown> | undefined);
        this.#depth = depth;
        break;
      }
      default:
        value = this.#number(kind, end);
    }
    if (isList) {
      if (list.length === 0) out[key] = [value];
      else list.push(value);
    } else if (oneof === undefined) out[key] = value;
    else out[oneof] = { case: key, value };
  }

  /** Where a record ends, the length of which comes next. */
  #stop(end: number): number {
    const length = this.#uint32(), stop = this.#pos + length;
    if (stop > end) throw new RangeError(`it needs ${length} bytes where ${end - this.#pos} are left`);
    return stop;
  }

  #number(kind: Field["kind"], end: number): number | bigint {
    if (kind === "float") return this.#view.getFloat32(this.#take(4, end), true);
    if (kind === "double") return this.#view.getFloat64(this.#take(8, end), true);
    this.#varint();
    if (this.#pos > end) throw new RangeError("its last number is cut off");
    if (kind === "int32") return this.#low | 0;
    const low = this.#low >>> 0, high = kind === "int64" ? this.#high | 0 : this.#high >>> 0;
    return high === 0 ? BigInt(low) : (BigInt(high) << 32n) | BigInt(low);
  }

  #take(count: number, end: number): number {
    const at = this.#pos;
    if (at + count > end) throw new RangeError("it runs past the end of what holds it");
    this.#pos += count;
    return at;
  }

  #uint32(): number {
    const first = this.#bytes[this.#pos]!;
    if (first < 0x80) {
      this.#pos++;
      return first;
    }
    this.#varint();
    return this.#low >>> 0;
  }

  #varint(): void {
    const bytes = this.#bytes;
    let low = 0, high = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      if (this.#pos >= bytes.length) throw new RangeError("the file ends inside of a number");
      const b = bytes[this.#pos++]!, bits = b & 0x7f;
      if (shift < 28) low |= bits << shift;
      else if (shift === 28) {
        low |= bits << 28;
        high = bits >>> 4;
      } else high |= bits << (shift - 32);
      if (b < 0x80) {
        this.#low = low;
        this.#high = high;
        return;
      }
    }
    throw new Error("a number has more than 10 bytes");
  }

  /** Steps over a field that the table does not have. */
  #skip(wire: number, number: number, end: number): void {
    switch (wire) {
      case VARINT:
        return this.#varint();
      case BIT64:
        this.#take(8, end);
        return;
      case BYTES:
        this.#pos = this.#stop(end);
        return;
      case BIT32:
        this.#take(4, end);
        return;
      case 3: // A group, which lasts up to its end tag.
        for (;;) {
          if (this.#pos >= end) throw new RangeError("it runs past the end of what holds it");
          const tag = this.#uint32();
          if ((tag & 7) === 4 && tag >>> 3 === number) return;
          this.#skip(tag & 7, tag >>> 3, end);
        }
      default:
        throw new Error(`there is no wire type ${wire}`);
    }
  }
}

/** The message that a field of several holds, if it is that of `key`. */
function pieceOf(oneof: unknown, key: string): unknown {
  const { case: which, value } = oneof as { readonly case: string | undefined; readonly value?: unknown };
  return which === key ? value : undefined;
}
