/**
 * Bytes to ModelProto. The structure is checked before the library decodes, because the library takes inner messages that run past
 * their parent without a word, and its errors do not say where in the model the damage is.
 *
 * `raw_data` of the result are views of the given bytes.
 */
import { type DescField, type DescMessage, fromBinary, ScalarType } from "@bufbuild/protobuf";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import { FormatError } from "../core/errors.ts";
import { type ModelProto, ModelProtoSchema } from "./onnx_schema.ts";

/** How deep messages may nest: the library's own limit. */
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
  const walker = new Walker(bytes);
  try {
    walker.message(ModelProtoSchema, bytes.length, "");
    return fromBinary(ModelProtoSchema, bytes);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new FormatError(
      `Cannot read ${path} as an ONNX model: ${
        walker.place || "the first field"
      } is damaged (${reason}), at byte ${walker.at} of ${bytes.length}`,
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

/** Walks the fields of a message by its schema without building anything. */
class Walker {
  /** The field that is being read, as a path from the model. */
  place = "";
  readonly #bytes: Uint8Array;
  readonly #reader: BinaryReader;
  readonly #fields = new Map<DescMessage, Map<number, DescField>>();
  readonly #utf8 = new TextDecoder("utf-8", { fatal: true });

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#reader = new BinaryReader(bytes);
  }

  get at(): number {
    return Math.min(this.#reader.pos, this.#reader.len);
  }

  message(desc: DescMessage, end: number, path: string, depth = 0): void {
    if (depth > MAX_DEPTH) throw new Error(`messages nest deeper than ${MAX_DEPTH}`);
    const reader = this.#reader, fields = this.#fieldsOf(desc);
    const seen = new Map<number, number>();
    while (reader.pos < end) {
      this.place = path;
      const [no, wire] = reader.tag();
      const field = fields.get(no);
      if (field === undefined) {
        reader.skip(wire, no);
      } else {
        let place = path === "" ? field.name : `${path}.${field.name}`;
        if (field.fieldKind === "list") {
          const index = seen.get(no) ?? 0;
          seen.set(no, index + 1);
          place += `[${index}]`;
        }
        this.place = place;
        this.#field(field, { wire, place, end, depth });
      }
      if (reader.pos > end) throw new RangeError("it runs past the end of what holds it");
    }
  }

  #field(
    field: DescField,
    { wire, place, end, depth }: { wire: WireType; place: string; end: number; depth: number },
  ): void {
    const reader = this.#reader;
    const expected = wireOf(field);
    // Lists of numbers come packed into one record, or one record each.
    const packed = field.fieldKind === "list" && wire === WireType.LengthDelimited;
    if (wire !== expected && !packed) throw new Error(`wire type ${wire} where ${expected} belongs`);
    if (expected !== WireType.LengthDelimited && !packed) {
      reader.skip(wire, field.number);
      return;
    }
    const length = reader.uint32();
    const stop = reader.pos + length;
    if (stop > end) throw new RangeError(`it needs ${length} bytes where ${end - reader.pos} are left`);
    if (field.message) {
      this.message(field.message, stop, place, depth + 1);
    } else if (field.scalar === ScalarType.STRING) {
      // Nearly all strings are ASCII, which needs no proof, and the decoder is slow to call.
      if (!this.#isAscii(reader.pos, stop)) this.#utf8.decode(this.#bytes.subarray(reader.pos, stop));
    } else if (packed && expected !== WireType.LengthDelimited) {
      this.#packed(expected, length, stop);
    }
    reader.pos = stop;
  }

  #isAscii(start: number, end: number): boolean {
    for (let i = start; i < end; i++) if (this.#bytes[i]! >= 0x80) return false;
    return true;
  }

  #packed(expected: WireType, length: number, stop: number): void {
    const size = expected === WireType.Bit32 ? 4 : expected === WireType.Bit64 ? 8 : 1;
    if (length % size !== 0) throw new RangeError(`${length} bytes are no whole number of ${size}-byte elements`);
    if (size === 1 && length > 0 && this.#bytes[stop - 1]! >= 0x80) {
      throw new RangeError("its last number is cut off");
    }
  }

  #fieldsOf(desc: DescMessage): Map<number, DescField> {
    let fields = this.#fields.get(desc);
    if (!fields) this.#fields.set(desc, fields = new Map(desc.fields.map((f) => [f.number, f])));
    return fields;
  }
}

function wireOf(field: DescField): WireType {
  if (field.message) return WireType.LengthDelimited;
  switch (field.scalar) {
    case ScalarType.STRING:
    case ScalarType.BYTES:
      return WireType.LengthDelimited;
    case ScalarType.FLOAT:
      return WireType.Bit32;
    case ScalarType.DOUBLE:
      return WireType.Bit64;
    default:
      return WireType.Varint;
  }
}
