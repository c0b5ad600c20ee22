/**
 * MPI's C interface as a typed table, over whichever libmpi is there. Two binary interfaces exist, Open MPI's and MPICH's: they
 * differ in what a handle is, in constants and in the layout of MPI_Status, which {@linkcode MpiAbi} tells apart.
 *
 * All functions return an MPI error code; policy (checks, requests, communicators) is the caller's. Call them on one thread.
 */
import { UnavailableError } from "../core/errors.ts";
import { MPICH } from "./mpi_abi_mpich.ts";
import { OPEN_MPI } from "./mpi_abi_openmpi.ts";
import { findMpi, type FoundMpi } from "./mpi_library.ts";

/** An MPI_Comm, MPI_Datatype, MPI_Op, …: a pointer or an int, depending on the library; opaque. */
export type Handle = Deno.PointerObject<"MPI handle">;

/** The predefined handles that are used. */
export interface NamedHandles {
  readonly world: Handle;
  readonly infoNull: Handle;
  readonly errorsReturn: Handle;
  readonly byte: Handle;
  readonly i8: Handle;
  readonly u8: Handle;
  readonly i16: Handle;
  readonly u16: Handle;
  readonly i32: Handle;
  readonly u32: Handle;
  readonly i64: Handle;
  readonly u64: Handle;
  readonly f32: Handle;
  readonly f64: Handle;
  readonly sum: Handle;
  readonly prod: Handle;
  readonly max: Handle;
  readonly min: Handle;
  readonly band: Handle;
  readonly bor: Handle;
  readonly bxor: Handle;
}

/** What differs between the two binary interfaces. */
export interface MpiAbi {
  readonly name: "Open MPI" | "MPICH";
  /** How a handle is passed. */
  readonly handle: "pointer" | "i32";
  /** MPI_IN_PLACE, as an address. */
  readonly inPlace: bigint;
  readonly anySource: number;
  readonly anyTag: number;
  /** The attribute that holds the largest tag. */
  readonly tagUpperBound: number;
  /** The class of an error: the message is longer than the buffer. */
  readonly truncated: number;
  /** Size of MPI_Status, and the ints in it that hold source and tag. */
  readonly statusBytes: number;
  readonly statusSource: number;
  readonly statusTag: number;
  /** The predefined handles of the library at `path`. */
  readonly predefined: (path: string) => NamedHandles;
  /** The handle that MPI wrote into `memory`. */
  readonly readHandle: (memory: Uint8Array<ArrayBuffer>) => Handle;
}

/** The functions. An entry whose name ends in `_in_place` takes MPI_IN_PLACE, which is no address
 * of JavaScript's, for the buffer that it would read. */
function makeTable<H extends "pointer" | "i32">(handle: H) {
  const allReduce = [
    "buffer", // void *recvbuf
    "i32", // int count
    handle, // MPI_Datatype
    handle, // MPI_Op
    handle, // MPI_Comm
  ] as const;
  const reduce = [
    "buffer", // void *recvbuf
    "i32", // int count
    handle, // MPI_Datatype
    handle, // MPI_Op
    "i32", // int root
    handle, // MPI_Comm
    "buffer", // MPI_Request *
  ] as const;
  const gathered = [
    "i32", // int sendcount
    handle, // MPI_Datatype sendtype
    "buffer", // void *recvbuf
    "i32", // int recvcount, of each rank
    handle, // MPI_Datatype recvtype
  ] as const;
  const gatheredV = [
    "i32", // int sendcount
    handle, // MPI_Datatype sendtype
    "buffer", // void *recvbuf
    "buffer", // const int recvcounts[]
    "buffer", // const int displs[]
    handle, // MPI_Datatype recvtype
  ] as const;
  const end = [
    handle, // MPI_Comm
    "buffer", // MPI_Request *
  ] as const;
  const rootedEnd = [
    "i32", // int root
    ...end,
  ] as const;
  return {
    MPI_Initialized: { parameters: ["buffer"], result: "i32" }, // int *flag
    MPI_Finalized: { parameters: ["buffer"], result: "i32" }, // int *flag
    MPI_Init_thread: {
      parameters: [
        "pointer", // int *argc
        "pointer", // char ***argv
        "i32", // int required
        "buffer", // int *provided
      ],
      result: "i32",
    },
    MPI_Finalize: { parameters: [], result: "i32" },
    MPI_Abort: {
      parameters: [
        handle, // MPI_Comm
        "i32", // int errorcode
      ],
      result: "i32",
    },
    MPI_Comm_size: { parameters: [handle, "buffer"], result: "i32" }, // MPI_Comm, int *size
    MPI_Comm_rank: { parameters: [handle, "buffer"], result: "i32" }, // MPI_Comm, int *rank
    MPI_Comm_set_errhandler: { parameters: [handle, handle], result: "i32" }, // MPI_Comm, MPI_Errhandler
    MPI_Comm_dup: { parameters: [handle, "buffer"], result: "i32" }, // MPI_Comm, MPI_Comm *newcomm
    MPI_Comm_split: {
      parameters: [
        handle, // MPI_Comm
        "i32", // int color
        "i32", // int key
        "buffer", // MPI_Comm *newcomm
      ],
      result: "i32",
    },
    MPI_Comm_group: { parameters: [handle, "buffer"], result: "i32" }, // MPI_Comm, MPI_Group *
    MPI_Group_incl: {
      parameters: [
        handle, // MPI_Group
        "i32", // int n
        "buffer", // const int ranks[]
        "buffer", // MPI_Group *newgroup
      ],
      result: "i32",
    },
    MPI_Group_free: { parameters: ["buffer"], result: "i32" }, // MPI_Group *
    MPI_Comm_create_group: {
      parameters: [
        handle, // MPI_Comm
        handle, // MPI_Group
        "i32", // int tag
        "buffer", // MPI_Comm *newcomm
      ],
      result: "i32",
    },
    MPI_Comm_free: { parameters: ["buffer"], result: "i32" }, // MPI_Comm *
    MPI_Comm_get_attr: {
      parameters: [
        handle, // MPI_Comm
        "i32", // int keyval
        "buffer", // void *attribute_val: receives a pointer
        "buffer", // int *flag
      ],
      result: "i32",
    },
    MPI_Error_string: {
      parameters: [
        "i32", // int errorcode
        "buffer", // char *string, of MPI_MAX_ERROR_STRING
        "buffer", // int *resultlen
      ],
      result: "i32",
    },
    MPI_Error_class: { parameters: ["i32", "buffer"], result: "i32" }, // int errorcode, int *errorclass
    MPI_Get_processor_name: { parameters: ["buffer", "buffer"], result: "i32" }, // char *name, int *resultlen
    MPI_Test: {
      parameters: [
        "buffer", // MPI_Request *
        "buffer", // int *flag
        "buffer", // MPI_Status *
      ],
      result: "i32",
    },
    MPI_Cancel: { parameters: ["buffer"], result: "i32" }, // MPI_Request *
    MPI_Test_cancelled: { parameters: ["buffer", "buffer"], result: "i32" }, // const MPI_Status *, int *flag
    MPI_Iprobe: {
      parameters: [
        "i32", // int source
        "i32", // int tag
        handle, // MPI_Comm
        "buffer", // int *flag
        "buffer", // MPI_Status *
      ],
      result: "i32",
    },
    MPI_Get_count: {
      parameters: [
        "buffer", // const MPI_Status *
        handle, // MPI_Datatype
        "buffer", // int *count
      ],
      result: "i32",
    },
    MPI_Isend: {
      parameters: [
        "buffer", // const void *buf
        "i32", // int count
        handle, // MPI_Datatype
        "i32", // int dest
        "i32", // int tag
        ...end,
      ],
      result: "i32",
    },
    MPI_Irecv: {
      parameters: [
        "buffer", // void *buf
        "i32", // int count
        handle, // MPI_Datatype
        "i32", // int source
        "i32", // int tag
        ...end,
      ],
      result: "i32",
    },
    MPI_Barrier: { parameters: [handle], result: "i32" }, // MPI_Comm
    MPI_Ibarrier: { parameters: [...end], result: "i32" },
    MPI_Ibcast: {
      parameters: [
        "buffer", // void *buffer
        "i32", // int count
        handle, // MPI_Datatype
        ...rootedEnd,
      ],
      result: "i32",
    },
    MPI_Allreduce_in_place: { name: "MPI_Allreduce", parameters: ["pointer", ...allReduce], result: "i32" },
    MPI_Iallreduce_in_place: {
      name: "MPI_Iallreduce",
      parameters: ["pointer", ...allReduce, "buffer"],
      result: "i32",
    },
    MPI_Ireduce: { parameters: ["buffer", ...reduce], result: "i32" }, // const void *sendbuf, …
    MPI_Ireduce_in_place: { name: "MPI_Ireduce", parameters: ["pointer", ...reduce], result: "i32" },
    MPI_Iscan_in_place: { name: "MPI_Iscan", parameters: ["pointer", ...allReduce, "buffer"], result: "i32" },
    MPI_Iexscan_in_place: { name: "MPI_Iexscan", parameters: ["pointer", ...allReduce, "buffer"], result: "i32" },
    MPI_Ireduce_scatter: {
      parameters: [
        "buffer", // const void *sendbuf
        "buffer", // void *recvbuf
        "buffer", // const int recvcounts[]
        handle, // MPI_Datatype
        handle, // MPI_Op
        ...end,
      ],
      result: "i32",
    },
    MPI_Iallgather_in_place: { name: "MPI_Iallgather", parameters: ["pointer", ...gathered, ...end], result: "i32" },
    MPI_Iallgatherv_in_place: { name: "MPI_Iallgatherv", parameters: ["pointer", ...gatheredV, ...end], result: "i32" },
    MPI_Igatherv: { parameters: ["buffer", ...gatheredV, ...rootedEnd], result: "i32" },
    MPI_Igatherv_in_place: { name: "MPI_Igatherv", parameters: ["pointer", ...gatheredV, ...rootedEnd], result: "i32" },
    MPI_Iscatterv: {
      parameters: [
        "buffer", // const void *sendbuf
        "buffer", // const int sendcounts[]
        "buffer", // const int displs[]
        handle, // MPI_Datatype sendtype
        "buffer", // void *recvbuf
        "i32", // int recvcount
        handle, // MPI_Datatype recvtype
        ...rootedEnd,
      ],
      result: "i32",
    },
    MPI_Iscatterv_in_place: {
      name: "MPI_Iscatterv",
      parameters: [
        "buffer", // const void *sendbuf
        "buffer", // const int sendcounts[]
        "buffer", // const int displs[]
        handle, // MPI_Datatype sendtype
        "pointer", // MPI_IN_PLACE
        "i32", // int recvcount
        handle, // MPI_Datatype recvtype
        ...rootedEnd,
      ],
      result: "i32",
    },
    MPI_Ialltoallv: {
      parameters: [
        "buffer", // const void *sendbuf
        "buffer", // const int sendcounts[]
        "buffer", // const int sdispls[]
        handle, // MPI_Datatype sendtype
        "buffer", // void *recvbuf
        "buffer", // const int recvcounts[]
        "buffer", // const int rdispls[]
        handle, // MPI_Datatype recvtype
        ...end,
      ],
      result: "i32",
    },
  } as const satisfies Deno.ForeignLibraryInterface;
}

/** The functions of {@linkcode makeTable}, callable. */
export type MpiSymbols = Deno.DynamicLibrary<ReturnType<typeof makeTable<"pointer">>>["symbols"];

/** MPI_THREAD_FUNNELED: only the thread that initialised MPI calls it. The same number everywhere. */
export const MPI_THREAD_FUNNELED = 1;
/** MPI_UNDEFINED: no color, or no count. The same number everywhere. */
export const MPI_UNDEFINED = -32766;
/** MPI_MAX_ERROR_STRING and MPI_MAX_PROCESSOR_NAME are at most this. */
export const MPI_MAX_STRING = 1024;

/** An opened libmpi. It is never closed: MPI cannot be unloaded. */
export class MpiLibrary {
  readonly symbols: MpiSymbols;
  readonly abi: MpiAbi;
  readonly handles: NamedHandles;
  /** MPI_IN_PLACE. */
  readonly inPlace: Deno.PointerValue;
  /** Where it was found, and what it calls itself. */
  readonly path: string;
  readonly version: string;

  /** @throws {UnavailableError} If no libmpi loads, listing what was tried. */
  constructor(found: FoundMpi = findMpi()) {
    this.path = found.path;
    this.version = found.version;
    this.abi = found.kind === "openmpi" ? OPEN_MPI : MPICH;
    try {
      const library = Deno.dlopen(found.path, makeTable(this.abi.handle));
      // The two tables differ in how handles are passed, and `Handle` hides that.
      this.symbols = library.symbols as unknown as MpiSymbols;
      this.handles = this.abi.predefined(found.path);
    } catch (error) {
      throw new UnavailableError(`Cannot use ${found.path} (${found.version}) as MPI: a function is missing`, {
        hint: "install Open MPI 4 or 5, MPICH 3.2 or later, or a relative of MPICH",
        cause: error,
      });
    }
    this.inPlace = Deno.UnsafePointer.create(this.abi.inPlace);
  }
}
