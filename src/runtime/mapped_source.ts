/** Files mapped into memory, for readers that must not copy. */
import { UnavailableError } from "../core/errors.ts";
import { Libc, LibcError, MAP_PRIVATE, O_RDONLY, PROT_READ } from "../ffi/libc.ts";
import { type ByteSource, checkRange, fileSize, openRanges, type OpenSource } from "../formats/mapped_file.ts";

/** A way to open files, with the library that it needs. */
export interface MappedSources extends Disposable {
  readonly open: OpenSource;
}

/**
 * Opens files as mappings: `bytes()` are views, and pages are read when they are touched. They die with the source. Where
 * there is no C library that we know, files are read by ranges.
 */
export function mappedSources(): MappedSources {
  let libc: Libc;
  try {
    libc = new Libc();
  } catch (error) {
    if (!(error instanceof UnavailableError)) throw error;
    return { open: openRanges, [Symbol.dispose]() {} };
  }
  return { open: (path) => openMapped(libc, path), [Symbol.dispose]: () => libc[Symbol.dispose]() };
}

function openMapped(libc: Libc, path: string): ByteSource {
  const size = fileSize(path);
  if (size === 0) return openRanges(path);
  try {
    using file = libc.open(path, O_RDONLY);
    const mapping = libc.map(file, size, { protection: PROT_READ, flags: MAP_PRIVATE });
    return {
      path,
      size,
      bytes(offset, length) {
        checkRange(this, offset, length);
        return new Uint8Array(mapping.buffer, offset, length);
      },
      [Symbol.dispose]: () => mapping[Symbol.dispose](),
    };
  } catch (error) {
    // Some file systems do not map; reading ranges works everywhere.
    if (error instanceof LibcError) return openRanges(path);
    throw error;
  }
}
