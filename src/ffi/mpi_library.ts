/**
 * Which libmpi: found by an environment variable, by which mpirun started this process, by the loader's names, and in the
 * folders where packages put it.
 */
import { UnavailableError } from "../core/errors.ts";
import type { LibrarySpec } from "./load.ts";

/** The two families of binary interfaces. */
export type MpiKind = "openmpi" | "mpich";

/** A libmpi that loads. */
export interface FoundMpi {
  readonly path: string;
  readonly kind: MpiKind;
  /** The first line of MPI_Get_library_version. */
  readonly version: string;
}

/** What a process's environment says; a record, so that tests can pretend. */
type Env = Readonly<Record<string, string | undefined>>;

const VARIABLE = "SHARDWISE_LIBMPI";

const MAX_VERSION = 8192; // MPI_MAX_LIBRARY_VERSION_STRING of MPICH; Open MPI's is smaller

/** The loader's names of each family. Debian calls MPICH's libmpich, everybody else calls both libmpi. */
const SONAMES: Readonly<Record<MpiKind, readonly string[]>> = {
  openmpi: ["libmpi.so.40"],
  mpich: ["libmpich.so.12", "libmpi.so.12"],
};

const FOLDERS: readonly string[] = [
  `/usr/lib/${Deno.build.arch}-linux-gnu/openmpi/lib`,
  ...[
    "/usr/lib64/openmpi/lib",
    "/usr/lib64/mpich/lib",
    "/usr/local/lib",
    "/usr/local/openmpi/lib",
    "/usr/local/mpich/lib",
  ],
  ...["/opt/openmpi/lib", "/opt/amazon/openmpi/lib", "/opt/mpich/lib", "/opt/intel/oneapi/mpi/latest/lib"],
  ...["/opt/intel/oneapi/mpi/latest/lib/release", "/opt/cray/pe/lib64"],
];

/** Where libmpi is looked for, for whoever wants to know without MPI's functions. */
export const MPI_SPEC: LibrarySpec = {
  name: "libmpi",
  env: VARIABLE,
  candidates: mpiCandidates({}),
  hint: "apt-get install openmpi-bin, or mpich",
};

/** Which mpirun started this process; undefined for none, or for one that does not say. */
export function startedBy(env: Env): MpiKind | undefined {
  if (env.OMPI_COMM_WORLD_SIZE !== undefined) return "openmpi";
  return env.PMI_SIZE !== undefined || env.PMI_FD !== undefined || env.MV2_COMM_WORLD_SIZE !== undefined
    ? "mpich"
    : undefined;
}

/** Paths to try in this order: the family that started this process first, each by name, then in folders. */
export function mpiCandidates(env: Env): string[] {
  const first = startedBy(env) ?? "openmpi";
  const names = [...SONAMES[first], ...SONAMES[first === "openmpi" ? "mpich" : "openmpi"], "libmpi.so"];
  const roots = [env.MPI_HOME, env.I_MPI_ROOT, env.OPAL_PREFIX, env.CONDA_PREFIX, env.EBROOTOPENMPI, env.EBROOTMPICH];
  const folders = [...roots.flatMap((r) => r ? [`${r}/lib`, `${r}/lib/release`, `${r}/lib64`] : []), ...FOLDERS];
  return [...names, ...folders.flatMap((folder) => names.map((name) => `${folder}/${name}`))];
}

/**
 * The first libmpi that loads: the one that {@linkcode VARIABLE SHARDWISE_LIBMPI} names, else by {@linkcode mpiCandidates}.
 *
 * @throws {UnavailableError} If none does, listing what was tried, and which package has it.
 */
export function findMpi(env: Env = Deno.env.toObject()): FoundMpi {
  const told = env[VARIABLE] || undefined;
  const problems: string[] = [];
  for (const path of told ? [told] : mpiCandidates(env)) {
    try {
      const version = askVersion(path), kind = kindOf(version);
      if (kind === "openmpi") makeGlobal(path);
      return { path, kind, version };
    } catch (error) {
      if (error instanceof Deno.errors.NotCapable) {
        throw new UnavailableError(`Cannot open libmpi: FFI is not allowed for ${path}`, {
          hint: "run deno with -A, or with --allow-ffi",
          cause: error,
        });
      }
      problems.push(`  ${path}: ${error instanceof Error ? error.message.split("\n")[0] : String(error)}`);
    }
  }
  throw new UnavailableError(
    `Cannot open libmpi${told ? ` (from ${VARIABLE})` : ""}: none of these loads\n${problems.join("\n")}`,
    {
      hint:
        `install Open MPI (Debian: openmpi-bin, Fedora: openmpi) or MPICH (mpich), load your cluster's module, or set ${VARIABLE} to the library's path`,
    },
  );
}

/** Which family calls itself so: Open MPI says its name; all others follow MPICH's interface. */
export function kindOf(version: string): MpiKind {
  return version.startsWith("Open MPI") ? "openmpi" : "mpich";
}

function askVersion(path: string): string {
  const library = Deno.dlopen(path, {
    MPI_Get_library_version: {
      parameters: [
        "buffer", // char *version
        "buffer", // int *resultlen
      ],
      result: "i32",
    },
  });
  const text = new Uint8Array(MAX_VERSION), length = new Int32Array(1);
  library.symbols.MPI_Get_library_version(text, length);
  const lines = new TextDecoder().decode(text.subarray(0, length[0])).replace(/\0.*/s, "").split("\n");
  // "MPICH Version:\t4.0.2" and nine more lines; "Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4, …".
  return lines[0]!.replace(/, package.*/, "").replaceAll("\t", " ").trim();
}

/**
 * Makes the symbols of the opened library at `path` visible to what it opens later: in some builds Open MPI's plug-ins are not
 * linked against it, and find it only so. Deno opens libraries for themselves only.
 */
function makeGlobal(path: string): void {
  const RTLD_LAZY = 1, RTLD_NOLOAD = 4, RTLD_GLOBAL = 0x100;
  const table = {
    dlopen: {
      parameters: [
        "buffer", // const char *filename
        "i32", // int flags
      ],
      result: "pointer",
    },
  } as const;
  if (Deno.build.os !== "linux") return;
  for (const libc of ["libc.so.6", "libdl.so.2", `libc.musl-${Deno.build.arch}.so.1`]) {
    try {
      const { symbols } = Deno.dlopen(libc, table); // of glibc before 2.34, dlopen is in libdl
      symbols.dlopen(new TextEncoder().encode(`${path}\0`), RTLD_LAZY | RTLD_NOLOAD | RTLD_GLOBAL);
      return;
    } catch {
      // the next has it; where none has, plug-ins that are linked against libmpi still load
    }
  }
}
