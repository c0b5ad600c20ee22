/**
 * Shared memory between processes of one host, in two kinds.
 *
 * A *named* segment is how ranks meet: a small file `shardwise-<runId>-<name>` in /dev/shm that every rank opens, whoever
 * comes first. Its storage is reserved before it is touched, so that a full /dev/shm is an error here and not a SIGBUS
 * later, and its name is removed by the rank that attaches last, so that nothing stays behind even after SIGKILL.
 *
 * An *anonymous* segment carries the data: a memfd that one rank makes and the others open through /proc. It has no
 * name that could be left behind, and does not count against the size of /dev/shm (64 MB in a Docker container).
 */
import { UnavailableError } from "../../core/errors.ts";
import { ENOENT, ENOSPC, type FileDescriptor, type Libc, LibcError, O_CREAT, O_RDWR } from "../../ffi/libc.ts";
import type { AddressWindow, MappedRange } from "./address_window.ts";

/** Where POSIX keeps shared memory on Linux. */
export const SHM_DIRECTORY = "/dev/shm";

/** A named segment that this rank has mapped. */
export interface NamedSegment extends Disposable {
  readonly path: string;
  readonly range: MappedRange;
  /** Removes the name; no rank can come any more. Idempotent, also across ranks. */
  unlink(): void;
}

/** What {@linkcode openNamedSegment} needs to know. */
export interface NamedSegmentOptions {
  readonly libc: Libc;
  readonly window: AddressWindow;
  /** The file's name, which begins with `shardwise-`. */
  readonly name: string;
  readonly bytes: number;
  /** Looks at the mapped bytes under the file's lock: `stale` means that they belong to a job that is over. */
  readonly inspect: (range: MappedRange) => "ours" | "stale";
  /** Default {@linkcode SHM_DIRECTORY}. */
  readonly directory?: string;
}

/**
 * Opens the segment `name`, making it if no rank has yet; a file that a dead job left is replaced.
 *
 * The file's lock is held while it is inspected. A file that has lost its name meanwhile is given up for the one that has
 * the name now, so that all ranks end with the same.
 *
 * @throws {UnavailableError} If there is no room for it.
 */
export function openNamedSegment(options: NamedSegmentOptions): NamedSegment {
  const { libc, window, name, bytes, inspect, directory = SHM_DIRECTORY } = options;
  const path = `${directory}/${name}`;
  for (;;) {
    using file = openOrExplain(libc, path);
    using _lock = libc.lock(file);
    const status = libc.status(file);
    if (status.links === 0) continue;
    if (status.bytes !== 0 && status.bytes !== bytes) {
      throw new UnavailableError(`Cannot attach to ${path}: it has ${status.bytes} bytes instead of ${bytes}`, {
        hint:
          "another program, or a job with another number of ranks, uses the same run id; remove the file or change SHARDWISE_RUN_ID",
      });
    }
    reserve({ libc, file, bytes, directory, path, made: status.bytes === 0 });
    const range = window.map(file, bytes);
    let verdict;
    try {
      verdict = inspect(range);
    } catch (error) {
      range[Symbol.dispose]();
      throw error;
    }
    if (verdict === "stale") {
      libc.unlink(path);
      range[Symbol.dispose]();
      continue;
    }
    return {
      path,
      range,
      unlink: () => unlinkSame(libc, path, status.inode),
      [Symbol.dispose]: () => range[Symbol.dispose](),
    };
  }
}

/** A memfd of `bytes`, not yet mapped; keep it open until the others have it. @throws {LibcError} */
export function makeAnonymousSegment(libc: Libc, name: string, bytes: number): FileDescriptor {
  return libc.memoryFile(name, bytes);
}

/** Opens descriptor `fd` of process `pid`. @throws {LibcError} If that process is gone, or is another user's. */
export function openAnonymousSegment(libc: Libc, pid: number, fd: number): FileDescriptor {
  return libc.open(`/proc/${pid}/fd/${fd}`, O_RDWR);
}

function openOrExplain(libc: Libc, path: string): FileDescriptor {
  try {
    return libc.open(path, O_RDWR | O_CREAT);
  } catch (error) {
    if (!(error instanceof LibcError)) throw error;
    throw new UnavailableError(`Cannot meet the other ranks in ${path}: ${error.message}`, {
      hint: error.errno === ENOENT
        ? "mount a tmpfs on /dev/shm"
        : "make /dev/shm writable for this user, or remove the file if another user left it",
      cause: error,
    });
  }
}

function reserve(
  o: { libc: Libc; file: FileDescriptor; bytes: number; directory: string; path: string; made: boolean },
): void {
  try {
    o.libc.allocate(o.file, o.bytes);
  } catch (error) {
    if (o.made) o.libc.unlink(o.path);
    if (!(error instanceof LibcError)) throw error;
    const { total, free } = o.libc.space(o.directory);
    throw new UnavailableError(
      `Cannot reserve ${o.bytes} bytes in ${o.directory}: ${free} of ${total} bytes are free`,
      {
        hint: error.errno === ENOSPC
          ? "remove what others left there, or enlarge it (docker run --shm-size, or mount -o remount,size=…)"
          : "see the cause",
        cause: error,
      },
    );
  }
}

/** Removes `path` unless another file has the name by now. */
function unlinkSame(libc: Libc, path: string, inode: bigint): void {
  let file: FileDescriptor;
  try {
    file = libc.open(path, O_RDWR);
  } catch (error) {
    if (error instanceof LibcError && error.errno === ENOENT) return;
    throw error;
  }
  using open = file;
  using _lock = libc.lock(open);
  const status = libc.status(open);
  if (status.inode === inode && status.links > 0) libc.unlink(path);
}
