/**
 * The native libraries that parts of Shardwise can use: where they are looked for, and which version is there. Nothing is
 * initialised; only functions are called that work before that.
 */
import { describeError } from "../core/errors.ts";
import { type LibrarySpec, loadLibrary } from "./load.ts";
import { MPI_SPEC } from "./mpi_library.ts";

/** What a look for one library gave. */
export interface LibraryFound {
  readonly name: string;
  readonly found: boolean;
  /** As the library tells it. */
  readonly version?: string;
  /** The file that the system's loader chose. */
  readonly path?: string;
  /** The paths that count, in order: the environment variable's alone if it is set. */
  readonly tried: readonly string[];
  /** Why none of them loads. */
  readonly problem?: string;
}

/** A library, and how to ask its version. */
interface Probe {
  readonly spec: LibrarySpec;
  readonly ask: (spec: LibrarySpec) => string | undefined;
}

const CUDA_FOLDERS = ["/usr/local/cuda/lib64", "/usr/local/cuda/lib"];

const PROBES: readonly Probe[] = [
  {
    spec: {
      name: "libc",
      env: "SHARDWISE_LIBC",
      candidates: ["libc.so.6", `libc.musl-${Deno.build.arch}.so.1`, "libc.so"],
    },
    ask(spec) {
      const library = loadLibrary(spec, {
        gnu_get_libc_version: { parameters: [], result: "pointer", optional: true },
      });
      const text = library.symbols.gnu_get_libc_version?.() ?? null;
      return text === null ? undefined : `glibc ${new Deno.UnsafePointerView(text).getCString()}`;
    },
  },
  {
    spec: MPI_SPEC,
    ask(spec) {
      const library = loadLibrary(spec, {
        MPI_Get_library_version: {
          parameters: [
            "buffer", // char *version, of MPI_MAX_LIBRARY_VERSION_STRING
            "buffer", // int *resultlen
          ],
          result: "i32",
        },
      });
      // It stays open: MPI libraries register handlers that must not vanish before the process ends.
      const text = new Uint8Array(16_384), length = new Int32Array(1);
      if (library.symbols.MPI_Get_library_version(text, length) !== 0) return undefined;
      return new TextDecoder().decode(text.subarray(0, length[0]!)).split(/[,\n\0]/)[0]!.replace(/\s+/g, " ").trim();
    },
  },
  {
    spec: { name: "libcuda", env: "SHARDWISE_LIBCUDA", candidates: ["libcuda.so.1", "libcuda.so"] },
    ask(spec) {
      const library = loadLibrary(spec, {
        cuDriverGetVersion: { parameters: ["buffer"], result: "i32" }, // int *driverVersion
      });
      const version = new Int32Array(1);
      return library.symbols.cuDriverGetVersion(version) === 0 ? cudaVersion(version[0]!) : undefined;
    },
  },
  {
    spec: cudaSpec("libcublas", ["13", "12", "11"]),
    ask(spec) {
      const library = loadLibrary(spec, {
        cublasGetProperty: {
          parameters: [
            "i32", // libraryPropertyType type: major, minor, patch
            "buffer", // int *value
          ],
          result: "i32",
        },
      });
      const parts = [0, 1, 2].map((type) => {
        const value = new Int32Array(1);
        library.symbols.cublasGetProperty(type, value);
        return value[0]!;
      });
      return parts.join(".");
    },
  },
  {
    spec: cudaSpec("libnvrtc", ["13", "12", "11.2"]),
    ask(spec) {
      const library = loadLibrary(spec, {
        nvrtcVersion: {
          parameters: [
            "buffer", // int *major
            "buffer", // int *minor
          ],
          result: "i32",
        },
      });
      const major = new Int32Array(1), minor = new Int32Array(1);
      return library.symbols.nvrtcVersion(major, minor) === 0 ? `${major[0]}.${minor[0]}` : undefined;
    },
  },
  {
    spec: { name: "libnccl", env: "SHARDWISE_LIBNCCL", candidates: ["libnccl.so.2", "libnccl.so"] },
    ask(spec) {
      const library = loadLibrary(spec, { ncclGetVersion: { parameters: ["buffer"], result: "i32" } }); // int *version
      const version = new Int32Array(1);
      return library.symbols.ncclGetVersion(version) === 0 ? ncclVersion(version[0]!) : undefined;
    },
  },
];

/** Looks for all of them. Never throws. */
export function probeLibraries(): LibraryFound[] {
  return PROBES.map(({ spec, ask }) => {
    const override = env(spec.env);
    const tried = override === undefined ? spec.candidates : [override];
    try {
      const version = ask(spec), path = mappedFile(tried);
      return {
        name: spec.name,
        found: true,
        tried,
        ...(version === undefined ? {} : { version }),
        ...(path === undefined ? {} : { path }),
      };
    } catch (error) {
      return { name: spec.name, found: false, tried, problem: describeError(error) };
    }
  });
}

/** `12040` is 12.4. Pure. */
export function cudaVersion(version: number): string {
  return `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`;
}

/** `22707` is 2.27.7, and `2708`, by the scheme before 2.9, is 2.7.8. Pure. */
export function ncclVersion(version: number): string {
  const major = version < 10_000 ? 1000 : 10_000;
  return `${Math.floor(version / major)}.${Math.floor((version % major) / 100)}.${version % 100}`;
}

/** The file that was mapped for one of `names`; also of a library that was opened by another part of the process. */
export function mappedFile(names: readonly string[]): string | undefined {
  const stems = names.map((name) => name.slice(name.lastIndexOf("/") + 1).replace(/\.so.*$/, ".so"));
  let maps: string;
  try {
    maps = Deno.readTextFileSync("/proc/self/maps");
  } catch {
    return undefined; // no such file system, or no permission: then the name has to do
  }
  const files = new Set(maps.split("\n").flatMap((line) => line.match(/\/.*$/)?.[0] ?? []));
  // Open MPI's libmpi.so.40.30.4 is mapped for libmpi.so.40, and glibc's file may be called libc-2.31.so.
  return [...files].find((file) => {
    const base = file.slice(file.lastIndexOf("/") + 1);
    return stems.some((stem) => base.startsWith(stem) || base.replace(/-[\d.]+\.so/, ".so").startsWith(stem));
  });
}

function cudaSpec(name: string, versions: readonly string[]): LibrarySpec {
  return {
    name,
    env: `SHARDWISE_${name.toUpperCase()}`,
    candidates: [
      ...versions.map((v) => `${name}.so.${v}`),
      `${name}.so`,
      ...CUDA_FOLDERS.map((dir) => `${dir}/${name}.so`),
    ],
  };
}

function env(name: string | undefined): string | undefined {
  try {
    return name === undefined ? undefined : Deno.env.get(name) || undefined;
  } catch {
    return undefined; // no permission to read the environment: then there is no override
  }
}
