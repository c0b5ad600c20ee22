/**
 * safetensors files: a JSON header with names, types and offsets, then the bytes. Tensors are read lazily, and written one after the other without
 * ever holding two of them.
 */
import { type DType, dtypeFromSafetensors, dtypeInfo } from "../core/dtype.ts";
import { cannotWrite, FormatError } from "../core/errors.ts";
import { type HostTensor, hostTensorBytes } from "../core/host_tensor.ts";
import { type ByteSource, openRanges, type OpenSource } from "./mapped_file.ts";
import { fileTensor, type TensorSource } from "./tensor_source.ts";

/** The longest header that is read, in bytes; the format's own limit. */
const MAX_HEADER = 100_000_000;

/** An opened safetensors file. Keep it until nothing reads its tensors any more. */
export interface SafetensorsFile extends Disposable {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, TensorSource>;
  /** The `__metadata__` of the header; empty if there is none. */
  readonly metadata: ReadonlyMap<string, string>;
}

/**
 * Opens the safetensors file at `path` and reads its header.
 *
 * @throws {FormatError} If the header is damaged, or a tensor's bytes are not where and as long as it says.
 */
export function openSafetensors(path: string, options: { open?: OpenSource } = {}): SafetensorsFile {
  const source = (options.open ?? openRanges)(path);
  try {
    const { header, dataStart } = readHeader(source);
    const tensors = new Map<string, TensorSource>();
    let metadata: ReadonlyMap<string, string> = new Map();
    for (const [name, entry] of Object.entries(header)) {
      if (name === "__metadata__") metadata = parseMetadata(entry, path);
      else tensors.set(name, parseTensor({ name, entry, source, dataStart }));
    }
    refuseOverlap(tensors, path);
    return { path, tensors, metadata, [Symbol.dispose]: () => source[Symbol.dispose]() };
  } catch (error) {
    source[Symbol.dispose]();
    throw error;
  }
}

/**
 * Writes `tensors` to `path`, sorted by the size of their elements (largest first, so that all are aligned), then by name. The header is padded to a
 * multiple of 8 bytes.
 *
 * @throws {FormatError} If the format has no name for a dtype, or a tensor is called `__metadata__`.
 */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, HostTensor>,
  metadata: ReadonlyMap<string, string> = new Map(),
): Promise<void> {
  const sorted = [...tensors].sort(([a, s], [b, t]) =>
    dtypeInfo(t.dtype).bits - dtypeInfo(s.dtype).bits || (a < b ? -1 : a > b ? 1 : 0)
  );
  const header: [string, unknown][] = [];
  if (metadata.size > 0) header.push(["__metadata__", Object.fromEntries(metadata)]);
  let offset = 0;
  for (const [name, { dtype, shape, data }] of sorted) {
    const type = dtypeInfo(dtype).safetensors;
    if (type === undefined || name === "__metadata__") {
      const why = type === undefined ? `safetensors has no dtype ${dtype}` : "that name is reserved";
      throw new FormatError(`Cannot write "${name}" to ${path}: ${why}`, { hint: "cast or rename it" });
    }
    header.push([name, { dtype: type, shape, data_offsets: [offset, offset += data.byteLength] }]);
  }
  // Written by hand: an object would put names that look like numbers first, and lose one called __proto__.
  const json = new TextEncoder().encode(
    `{${header.map(([k, v]) => `${JSON.stringify(k)}:${JSON.stringify(v)}`).join(",")}}`,
  );
  const start = new Uint8Array(8 + Math.ceil(json.length / 8) * 8).fill(0x20);
  new DataView(start.buffer).setBigUint64(0, BigInt(start.length - 8), true);
  start.set(json, 8);
  const file = await Deno.open(path, { write: true, create: true, truncate: true }).catch((cause) => {
    throw cannotWrite(path, cause);
  });
  const writer = file.writable.getWriter();
  try {
    await writer.write(start);
    for (const [, tensor] of sorted) await writer.write(hostTensorBytes(tensor));
    await writer.close();
  } catch (cause) {
    throw cannotWrite(path, cause);
  }
}

function readHeader(source: ByteSource): { header: Record<string, unknown>; dataStart: number } {
  const { path, size } = source;
  const fail = (what: string, cause?: unknown) =>
    new FormatError(`Cannot read ${path} as safetensors: ${what}`, {
      hint: "the file is truncated or of another kind: fetch it again",
      cause,
    });
  if (size < 8) throw fail(`it has ${size} bytes, and the length of the header alone takes 8`);
  const length = new DataView(source.bytes(0, 8).slice().buffer).getBigUint64(0, true);
  if (length > BigInt(Math.min(MAX_HEADER, size - 8))) {
    throw fail(`its header should have ${length} bytes, but ${size - 8} follow and ${MAX_HEADER} are allowed`);
  }
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(source.bytes(8, Number(length))));
  } catch (cause) {
    throw fail(`its header is no JSON (${(cause as Error).message})`, cause);
  }
  if (typeof header !== "object" || header === null || Array.isArray(header)) {
    throw fail("its header is no JSON object");
  }
  return { header: header as Record<string, unknown>, dataStart: 8 + Number(length) };
}

function parseMetadata(entry: unknown, path: string): ReadonlyMap<string, string> {
  const pairs = typeof entry === "object" && entry !== null ? Object.entries(entry) : undefined;
  if (!pairs?.every((p): p is [string, string] => typeof p[1] === "string")) {
    throw new FormatError(`Cannot read ${path} as safetensors: its __metadata__ does not map strings to strings`);
  }
  return new Map(pairs);
}

function parseTensor(
  { name, entry, source, dataStart }: { name: string; entry: unknown; source: ByteSource; dataStart: number },
): TensorSource {
  const fail = (what: string) => new FormatError(`Cannot read tensor "${name}" of ${source.path}: ${what}`);
  const { dtype: type, shape, data_offsets: offsets } = (entry ?? {}) as Record<string, unknown>;
  if (typeof type !== "string" || !isSizes(shape) || !isSizes(offsets) || offsets.length !== 2) {
    throw fail(`its header entry is ${JSON.stringify(entry)?.slice(0, 200)}, not { dtype, shape, data_offsets }`);
  }
  let dtype: DType;
  try {
    dtype = dtypeFromSafetensors(type);
  } catch {
    throw fail(`its dtype ${JSON.stringify(type)} is unknown`);
  }
  const [start, end] = offsets as [number, number];
  const count = shape.reduce((n, d) => n * BigInt(d), 1n);
  const needed = (count * BigInt(dtypeInfo(dtype).bits) + 7n) / 8n;
  if (end < start || BigInt(end - start) !== needed) {
    throw fail(`${dtype}[${shape}] needs ${needed} bytes, but its offsets are ${start} to ${end}`);
  }
  if (dataStart + end > source.size) {
    throw fail(`its bytes end at ${dataStart + end}, but the file has ${source.size} (is it truncated?)`);
  }
  return fileTensor({ name, dtype, shape, offset: dataStart + start }, source);
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

function refuseOverlap(tensors: ReadonlyMap<string, TensorSource>, path: string): void {
  let end = 0, last = "";
  const spans = [...tensors.values()].flatMap(({ name, location: l }) =>
    l.kind === "file" && l.length > 0 ? [{ name, offset: l.offset, end: l.offset + l.length }] : []
  );
  for (const span of spans.sort((a, b) => a.offset - b.offset)) {
    if (span.offset < end) {
      throw new FormatError(`Cannot read ${path} as safetensors: "${span.name}" overlaps "${last}"`);
    }
    [end, last] = [span.end, span.name];
  }
}
