/**
 * The C library: files, mappings, futexes and process facts that Deno has no API for, on Linux x86_64 and aarch64.
 *
 * Every call that fails throws {@linkcode LibcError} with the decoded errno. A `Libc` belongs to the thread that opened
 * it, because errno does: its address is asked for once, and it is read right after a blocking call, in place. The
 * nonblocking variants run on Deno's thread pool, where errno is out of reach, so they only report by their result.
 */
import { ShardwiseError, UnavailableError } from "../core/errors.ts";
import { loadLibrary } from "./load.ts";

const TABLE = {
  __errno_location: { parameters: [], result: "pointer" },
  open: {
    parameters: [
      "buffer", // const char *path
      "i32", // int flags
      "u32", // mode_t mode
    ],
    result: "i32",
  },
  close: { parameters: ["i32"], result: "i32" }, // int fd
  unlink: { parameters: ["buffer"], result: "i32" }, // const char *path
  ftruncate: {
    parameters: [
      "i32", // int fd
      "i64", // off_t length
    ],
    result: "i32",
  },
  posix_fallocate: {
    parameters: [
      "i32", // int fd
      "i64", // off_t offset
      "i64", // off_t len
    ],
    result: "i32", // an errno, not -1
  },
  memfd_create: {
    parameters: [
      "buffer", // const char *name
      "u32", // unsigned int flags
    ],
    result: "i32",
  },
  fcntl: {
    parameters: [
      "i32", // int fd
      "i32", // int cmd
      "i32", // int arg; variadic in C, which these architectures pass alike
    ],
    result: "i32",
  },
  flock: {
    parameters: [
      "i32", // int fd
      "i32", // int operation
    ],
    result: "i32",
  },
  statx: {
    parameters: [
      "i32", // int dirfd
      "buffer", // const char *path
      "i32", // int flags
      "u32", // unsigned int mask
      "buffer", // struct statx *out
    ],
    result: "i32",
  },
  statvfs: {
    parameters: [
      "buffer", // const char *path
      "buffer", // struct statvfs *out
    ],
    result: "i32",
  },
  mmap: {
    parameters: [
      "pointer", // void *addr
      "usize", // size_t length
      "i32", // int prot
      "i32", // int flags
      "i32", // int fd
      "i64", // off_t offset
    ],
    result: "pointer",
  },
  munmap: {
    parameters: [
      "pointer", // void *addr
      "usize", // size_t length
    ],
    result: "i32",
  },
  madvise: {
    parameters: [
      "pointer", // void *addr
      "usize", // size_t length
      "i32", // int advice
    ],
    result: "i32",
  },
  prctl: {
    parameters: [
      "i32", // int option
      "usize", // unsigned long arg2
      "usize", // unsigned long arg3
      "usize", // unsigned long arg4
      "usize", // unsigned long arg5
    ],
    result: "i32",
  },
  sched_getaffinity: {
    parameters: [
      "i32", // pid_t pid
      "usize", // size_t cpusetsize
      "buffer", // cpu_set_t *mask
    ],
    result: "i32",
  },
  sched_yield: { parameters: [], result: "i32" },
  sched_getcpu: { parameters: [], result: "i32" }, // the core, or -1
  _exit: { parameters: ["i32"], result: "void" }, // int status
  // One C function, two prototypes: futex has no wrapper in libc. uaddr is a view, so that its address needs no arithmetic.
  futex: {
    name: "syscall",
    parameters: [
      "u32", // long number; register writes of 32 bits clear the upper half on both machines, and numbers cost no bigint
      "buffer", // uint32_t *uaddr
      "i32", // int futex_op
      "u32", // uint32_t val
      "buffer", // const struct timespec *timeout
    ],
    result: "i32",
  },
  futexNonblocking: {
    name: "syscall",
    parameters: [
      "u32", // long number; register writes of 32 bits clear the upper half on both machines, and numbers cost no bigint
      "buffer", // uint32_t *uaddr
      "i32", // int futex_op
      "u32", // uint32_t val
      "buffer", // const struct timespec *timeout
    ],
    result: "i32",
    nonblocking: true,
  },
} as const satisfies Deno.ForeignLibraryInterface;

/** `open` flags; equal on x86_64 and aarch64 for those named here. */
export const O_RDONLY = 0, O_RDWR = 2, O_CREAT = 0o100, O_EXCL = 0o200, O_CLOEXEC = 0o2000000;
/** Page protections. */
export const PROT_READ = 1, PROT_WRITE = 2;
/** Mapping flags. */
export const MAP_SHARED = 1, MAP_PRIVATE = 2, MAP_FIXED = 0x10, MAP_ANONYMOUS = 0x20, MAP_NORESERVE = 0x4000;
/** `madvise` advice. */
export const MADV_COLLAPSE = 25;
/** `prctl` options. */
export const PR_SET_PDEATHSIG = 1;
/** Error numbers that callers act on. */
export const ENOENT = 2, EINTR = 4, EEXIST = 17, ENOSPC = 28;

const FUTEX_WAIT = 0, FUTEX_WAKE = 1, FUTEX_SYSCALL = { x86_64: 202, aarch64: 98 } as const;
/** No longer shorter or longer: a process that touches what another has cut off would be killed. */
const F_ADD_SEALS = 1033, SEALS = 1 | 2 | 4; // F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW
const AT_EMPTY_PATH = 0x1000,
  STATX_BASIC_STATS = 0x7ff,
  MFD_CLOEXEC = 1,
  MFD_ALLOW_SEALING = 2,
  LOCK_EX = 2,
  LOCK_UN = 8;

// deno-fmt-ignore
const ERRNO: Readonly<Record<number, string>> = {
  1: "EPERM, operation not permitted", 2: "ENOENT, no such file", 3: "ESRCH, no such process", 4: "EINTR, interrupted",
  5: "EIO, input/output error", 9: "EBADF, bad file descriptor", 11: "EAGAIN, try again", 12: "ENOMEM, out of memory",
  13: "EACCES, permission denied", 17: "EEXIST, file exists", 19: "ENODEV, no such device", 20: "ENOTDIR, not a directory",
  22: "EINVAL, invalid argument", 23: "ENFILE, too many open files in the system", 24: "EMFILE, too many open files",
  27: "EFBIG, file too large", 28: "ENOSPC, no space left", 30: "EROFS, read-only file system", 38: "ENOSYS, not implemented",
  40: "ELOOP, too many symbolic links", 75: "EOVERFLOW, value too large", 110: "ETIMEDOUT, timed out", 122: "EDQUOT, quota exceeded",
};

/** A call of the C library that failed. */
export class LibcError extends ShardwiseError {
  /** The error number, as of `errno.h`. */
  readonly errno: number;

  constructor(action: string, errno: number) {
    super(`Cannot ${action}: ${ERRNO[errno] ?? `errno ${errno}`}`);
    this.errno = errno;
  }
}

/** What `statx` says of a file. */
export interface FileStatus {
  readonly bytes: number;
  /** Names that the file still has; 0 once it is unlinked. */
  readonly links: number;
  readonly inode: bigint;
}

/** An open file; closed by `using`. */
export class FileDescriptor implements Disposable {
  #libc: Libc;
  #open = true;

  constructor(libc: Libc, /** The number. */ readonly fd: number) {
    this.#libc = libc;
  }

  [Symbol.dispose](): void {
    if (this.#open) this.#libc.symbols.close(this.fd);
    this.#open = false;
  }
}

/** Mapped memory. After disposal its bytes must not be touched: the pages are gone, and reading them ends the process. */
export class Mapping implements Disposable {
  #libc: Libc;
  #mapped = true;
  /** The memory. */
  readonly buffer: ArrayBuffer;

  constructor(libc: Libc, readonly pointer: Deno.PointerObject, readonly byteLength: number) {
    this.#libc = libc;
    this.buffer = new Deno.UnsafePointerView(pointer).getArrayBuffer(byteLength);
  }

  [Symbol.dispose](): void {
    if (this.#mapped) this.#libc.symbols.munmap(this.pointer, BigInt(this.byteLength));
    this.#mapped = false;
  }
}

/** How {@linkcode Libc.map} maps. */
export interface MapOptions {
  /** `PROT_*`; default read and write. */
  readonly protection?: number;
  /** `MAP_*`; default shared. */
  readonly flags?: number;
  /** Where in the file, in bytes, a multiple of the page size. */
  readonly offset?: number;
  /** Where in the address space; with `MAP_FIXED`, exactly there. */
  readonly address?: Deno.PointerValue;
}

/** The C library, opened. Use it on the thread that opened it. */
export class Libc implements Disposable {
  #library: Deno.DynamicLibrary<typeof TABLE>;
  #errno: Int32Array;
  #futexNumber: number;
  #timeout = new BigInt64Array(2);

  /** The raw functions. */
  readonly symbols: Deno.DynamicLibrary<typeof TABLE>["symbols"];

  constructor() {
    const arch = Deno.build.arch;
    if (Deno.build.os !== "linux" || !(arch in FUTEX_SYSCALL)) {
      throw new UnavailableError(`Cannot share memory between processes on ${Deno.build.os} ${arch}`, {
        hint: "use Linux on x86_64 or aarch64, or run a single rank",
      });
    }
    this.#library = loadLibrary({
      name: "libc",
      env: "SHARDWISE_LIBC",
      candidates: ["libc.so.6", `libc.musl-${arch}.so.1`, "libc.so"],
    }, TABLE);
    this.symbols = this.#library.symbols;
    this.#futexNumber = FUTEX_SYSCALL[arch as keyof typeof FUTEX_SYSCALL];
    const location = this.symbols.__errno_location();
    if (location === null) throw new UnavailableError("Cannot read errno: libc gave no address for it");
    this.#errno = new Int32Array(new Deno.UnsafePointerView(location).getArrayBuffer(4));
  }

  /** The error number of the last blocking call on this thread. */
  get errno(): number {
    return this.#errno[0]!;
  }

  /** Opens a file; `flags` are `O_*`, `O_CLOEXEC` is added. @throws {LibcError} */
  open(path: string, flags: number, mode = 0o600): FileDescriptor {
    const fd = this.symbols.open(cString(path), flags | O_CLOEXEC, mode);
    if (fd < 0) throw new LibcError(`open ${path}`, this.errno);
    return new FileDescriptor(this, fd);
  }

  /** A file that has no name, lives in memory, and is gone with its last descriptor and mapping. @throws {LibcError} */
  memoryFile(name: string, bytes: number): FileDescriptor {
    const fd = this.symbols.memfd_create(cString(name), MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) throw new LibcError(`create ${bytes} bytes of anonymous shared memory`, this.errno);
    const file = new FileDescriptor(this, fd);
    if (this.symbols.ftruncate(fd, BigInt(bytes)) === 0 && this.symbols.fcntl(fd, F_ADD_SEALS, SEALS) === 0) {
      return file;
    }
    const error = new LibcError(`create ${bytes} bytes of anonymous shared memory`, this.errno);
    file[Symbol.dispose]();
    throw error;
  }

  /** Removes a name; false if there was none. @throws {LibcError} */
  unlink(path: string): boolean {
    if (this.symbols.unlink(cString(path)) === 0) return true;
    if (this.errno === ENOENT) return false;
    throw new LibcError(`unlink ${path}`, this.errno);
  }

  /** Makes sure that `bytes` of storage exist, so that writing to a mapping of them cannot fail. @throws {LibcError} */
  allocate(file: FileDescriptor, bytes: number): void {
    const error = this.symbols.posix_fallocate(file.fd, 0n, BigInt(bytes));
    if (error !== 0) throw new LibcError(`reserve ${bytes} bytes of shared memory`, error);
  }

  /**
   * Waits for the exclusive advisory lock of `file`; disposing the result gives it back. (Closing the file would not, while it
   * is mapped: the mapping keeps it open.)
   *
   * @throws {LibcError}
   */
  lock(file: FileDescriptor): Disposable {
    while (this.symbols.flock(file.fd, LOCK_EX) !== 0) {
      if (this.errno !== EINTR) throw new LibcError("lock a shared file", this.errno);
    }
    return { [Symbol.dispose]: () => void this.symbols.flock(file.fd, LOCK_UN) };
  }

  /** Size, links and inode of an open file. @throws {LibcError} */
  status(file: FileDescriptor): FileStatus {
    const out = new DataView(new ArrayBuffer(256));
    if (this.symbols.statx(file.fd, cString(""), AT_EMPTY_PATH, STATX_BASIC_STATS, out) !== 0) {
      throw new LibcError("ask for a file's status", this.errno);
    }
    return {
      links: out.getUint32(16, true),
      inode: out.getBigUint64(32, true),
      bytes: Number(out.getBigUint64(40, true)),
    };
  }

  /** Bytes of the file system of `path`: in all, and free to this user. @throws {LibcError} */
  space(path: string): { readonly total: number; readonly free: number } {
    const out = new BigUint64Array(16); // f_bsize, f_frsize, f_blocks, f_bfree, f_bavail, …: 64 bits each on both machines
    if (this.symbols.statvfs(cString(path), out) !== 0) throw new LibcError(`ask for the space on ${path}`, this.errno);
    const block = Number(out[1]);
    return { total: Number(out[2]) * block, free: Number(out[4]) * block };
  }

  /** Maps `bytes` of `file`. @throws {LibcError} */
  map(file: FileDescriptor, bytes: number, options: MapOptions = {}): Mapping {
    const { protection = PROT_READ | PROT_WRITE, flags = MAP_SHARED, offset = 0, address = null } = options;
    return new Mapping(this, this.#mmap(address, bytes, protection, flags, file.fd, offset), bytes);
  }

  /** Puts fresh private zero pages where something else was mapped. @throws {LibcError} */
  mapZeros(address: Deno.PointerObject, bytes: number): void {
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    this.#mmap(address, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  }

  /** Tells the kernel what is to become of memory; false where it does not, which older kernels never do. */
  advise(address: bigint, bytes: number, advice: number): boolean {
    return this.symbols.madvise(Deno.UnsafePointer.create(address), BigInt(bytes), advice) === 0;
  }

  /** CPUs that this process may run on, after `taskset` and cgroup cpusets. @throws {LibcError} */
  affinity(): number {
    const mask = new Uint8Array(1024); // 8192 CPUs; the call fails if the kernel knows more
    if (this.symbols.sched_getaffinity(0, BigInt(mask.length), mask) < 0) {
      throw new LibcError("read the CPU affinity", this.errno);
    }
    return mask.reduce((sum, byte) => sum + BITS[byte & 15]! + BITS[byte >> 4]!, 0);
  }

  /** Lets another process run on this core, if one wants to. */
  yieldNow(): void {
    this.symbols.sched_yield();
  }

  /** The core on which this thread runs at the moment; -1 where the system cannot tell. */
  currentCore(): number {
    return this.symbols.sched_getcpu();
  }

  /** Sleeps while `word[0] === expected`, at most `timeoutMs`; may return early. Blocks this thread, JavaScript included. */
  futexWait(word: Int32Array, expected: number, timeoutMs: number): void {
    this.symbols.futex(
      this.#futexNumber,
      bytesOf(word),
      FUTEX_WAIT,
      expected >>> 0,
      setTimespec(this.#timeout, timeoutMs),
    );
  }

  /** As {@linkcode Libc.futexWait} on the thread pool: the event loop, and so signal handlers, go on. */
  async futexWaitAsync(word: Int32Array, expected: number, timeoutMs: number): Promise<void> {
    const timeout = setTimespec(new BigInt64Array(2), timeoutMs);
    await this.symbols.futexNonblocking(this.#futexNumber, bytesOf(word), FUTEX_WAIT, expected >>> 0, timeout);
  }

  /** Wakes up to `count` sleepers of `word`; returns how many. */
  futexWake(word: Int32Array, count = 0x7fffffff): number {
    return this.symbols.futex(this.#futexNumber, bytesOf(word), FUTEX_WAKE, count, null);
  }

  /** Ends the process at once, without handlers of any kind. */
  exitNow(status: number): never {
    this.symbols._exit(status);
    throw new Error("Unreachable: _exit returned");
  }

  [Symbol.dispose](): void {
    this.#library.close();
  }

  #mmap(address: Deno.PointerValue, bytes: number, protection: number, flags: number, fd: number, offset: number) {
    const pointer = this.symbols.mmap(address, BigInt(bytes), protection, flags, fd, BigInt(offset));
    // MAP_FAILED is the all-ones address.
    if (pointer === null || Deno.UnsafePointer.value(pointer) === 0xffff_ffff_ffff_ffffn) {
      throw new LibcError(`map ${bytes} bytes`, this.errno);
    }
    return pointer;
  }
}

const BITS = [0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4];

function cString(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(`${text}\0`);
}

// Typed as `BufferSource` by Deno; our words always lie in plain ArrayBuffers.
function bytesOf(word: Int32Array): Int32Array<ArrayBuffer> {
  return word as Int32Array<ArrayBuffer>;
}

function setTimespec(out: BigInt64Array<ArrayBuffer>, ms: number): BigInt64Array<ArrayBuffer> {
  const seconds = Math.floor(ms / 1000);
  out[0] = BigInt(seconds);
  out[1] = BigInt(Math.floor((ms - seconds * 1000) * 1e6));
  return out;
}
