/** ModelProto to bytes, by the table of onnx_messages.ts. Graphs are written by export_onnx.ts, without messages between. */
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { type Field, type MessageType, MODEL, type ModelProto } from "./onnx_messages.ts";

/** The bytes of a model; what it has as by default is left out. */
export function encodeModel(model: ModelProto): Uint8Array<ArrayBuffer> {
  const writer = new BinaryWriter();
  writeMessage(writer, MODEL, model as unknown as Record<string, unknown>);
  return writer.finish();
}

function writeMessage(writer: BinaryWriter, type: MessageType, message: Readonly<Record<string, unknown>>): void {
  for (const field of type.fields) {
    const { key, oneof, isList } = field;
    if (oneof !== undefined) {
      const chosen = message[oneof] as { readonly case: string | undefined; readonly value?: unknown };
      if (chosen.case === key) writeValue(writer, field, chosen.value);
    } else if (isList) {
      for (const value of message[key] as readonly unknown[]) writeValue(writer, field, value);
    } else if (!isDefault(message[key])) writeValue(writer, field, message[key]);
  }
  for (const bytes of (message.unknown as readonly Uint8Array[] | undefined) ?? []) writer.raw(bytes);
}

function isDefault(value: unknown): boolean {
  if (value === undefined || value === "" || value === 0n) return true;
  return value instanceof Uint8Array ? value.length === 0 : Object.is(value, 0);
}

const VARINT = 0, BIT64 = 1, BYTES = 2, BIT32 = 5;

function writeValue(writer: BinaryWriter, { number, kind, message }: Field, value: unknown): void {
  const tag = (wire: number) => writer.uint32((number << 3) | wire);
  switch (kind) {
    case "string":
      tag(BYTES).string(value as string);
      break;
    case "bytes":
      tag(BYTES).bytes(value as Uint8Array);
      break;
    case "int32":
      tag(VARINT).int32(value as number);
      break;
    case "int64":
      tag(VARINT).int64(value as bigint);
      break;
    case "uint64":
      tag(VARINT).uint64(value as bigint);
      break;
    case "float":
      tag(BIT32).float(value as number);
      break;
    case "double":
      tag(BIT64).double(value as number);
      break;
    case "message":
      tag(BYTES).fork();
      writeMessage(writer, message!, value as Record<string, unknown>);
      writer.join();
  }
}
