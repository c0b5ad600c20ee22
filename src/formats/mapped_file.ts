/**
 * Read-only views of files that never read a whole file on their own.
 *
 * {@linkcode openRanges} reads what is asked with Deno's file API. `formats/` cannot map memory itself (that needs FFI), so
 * whoever can gives the readers an {@linkcode OpenSource} of its own, whose `bytes()` are views of a mapping and cost nothing.
 */
import { basename, dirname, join } from "node:path";
import { FormatError, systemReason } from "../core/errors.ts";
import { nearest } from "../core/suggest.ts";

/** A file's bytes. Offsets and lengths are in bytes. */
export interface ByteSource extends Disposable {
  /** Bytes. */
  readonly size: number;
  /** Of the file; for messages. */
  readonly path: string;
  /**
   * The bytes at `[offset, offset + length)`: a view of a mapping, or a fresh copy. Not to be written to.
   *
   * @throws {FormatError} If the range leaves the file.
   */
  bytes(offset: number, length: number): Uint8Array;
}

/** Opens a file for reading. @throws {FormatError} If it is missing, no plain file, or unreadable. */
export type OpenSource = (path: string) => ByteSource;

/** Opens `path` for reads of ranges, each a seek and a read. */
export function openRanges(path: string): ByteSource {
  return new RangeFile(path, fileSize(path));
}

/** A source over bytes that are in memory already; `path` only names them. */
export function memorySource(path: string, bytes: Uint8Array): ByteSource {
  return {
    path,
    size: bytes.length,
    bytes(offset, length) {
      checkRange(this, offset, length);
      return bytes.subarray(offset, offset + length);
    },
    [Symbol.dispose]() {},
  };
}

/** @throws {FormatError} If `[offset, offset + length)` is not inside the file. */
export function checkRange(source: { path: string; size: number }, offset: number, length: number): void {
  if (
    !(Number.isSafeInteger(offset) && Number.isSafeInteger(length)) || offset < 0 || length < 0 ||
    offset + length > source.size
  ) {
    throw new FormatError(
      `Cannot read ${length} bytes at offset ${offset} of ${source.path}: the file has ${source.size} bytes`,
      { hint: "the file may be truncated: fetch or export it again" },
    );
  }
}

/**
 * The size of the plain file at `path` in bytes.
 *
 * @throws {FormatError} If there is none; names a file of a similar name in the same folder.
 */
export function fileSize(path: string): number {
  let info: Deno.FileInfo;
  try {
    info = Deno.statSync(path);
  } catch (cause) {
    throw cannotOpen(path, cause);
  }
  if (info.isDirectory) {
    const models = namesIn(path).filter((n) => n.endsWith(".onnx"));
    throw new FormatError(`Cannot read ${path}: it is a folder`, {
      hint: models.length ? `name a file in it, such as ${join(path, models[0]!)}` : "name a file",
    });
  }
  if (!info.isFile) throw new FormatError(`Cannot read ${path}: it is no plain file`);
  return info.size;
}

function cannotOpen(path: string, cause: unknown): FormatError {
  if (cause instanceof Deno.errors.NotFound || cause instanceof Deno.errors.NotADirectory) {
    const near = nearest(basename(path), namesIn(dirname(path)));
    return new FormatError(`Cannot read ${path}: there is no such file`, {
      hint: near === undefined ? "check the path" : `did you mean ${join(dirname(path), near)}?`,
      cause,
    });
  }
  return new FormatError(`Cannot read ${path}: ${systemReason(cause)}`, { cause });
}

function namesIn(folder: string): string[] {
  try {
    return Array.from(Deno.readDirSync(folder), (e) => e.name).sort();
  } catch {
    return []; // only used for hints
  }
}

class RangeFile implements ByteSource {
  readonly path: string;
  readonly size: number;
  #file: Deno.FsFile | undefined;

  constructor(path: string, size: number) {
    this.path = path;
    this.size = size;
    try {
      this.#file = Deno.openSync(path, { read: true });
    } catch (cause) {
      throw cannotOpen(path, cause);
    }
  }

  bytes(offset: number, length: number): Uint8Array {
    checkRange(this, offset, length);
    if (!this.#file) throw new FormatError(`Cannot read ${this.path}: it was closed`);
    const out = new Uint8Array(length);
    this.#file.seekSync(offset, Deno.SeekMode.Start);
    for (let at = 0; at < length;) {
      const n = this.#file.readSync(out.subarray(at));
      if (n === null) {
        throw new FormatError(`Cannot read ${length} bytes at offset ${offset} of ${this.path}: it ended after ${at}`, {
          hint: "something shortened the file while it was read",
        });
      }
      at += n;
    }
    return out;
  }

  [Symbol.dispose](): void {
    this.#file?.close();
    this.#file = undefined;
  }
}
