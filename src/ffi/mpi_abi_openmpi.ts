/**
 * Open MPI's binary interface, the same in versions 4 and 5: a handle is the address of a structure, and those of predefined
 * objects are the library's own symbols. Source: `mpi.h` of 4.1.4 and 5.0.
 */
import type { Handle, MpiAbi, NamedHandles } from "./mpi.ts";

/** The symbol behind each predefined handle, as `mpi.h` maps it. */
const SYMBOLS = {
  world: { name: "ompi_mpi_comm_world", type: "pointer" }, // MPI_COMM_WORLD
  infoNull: { name: "ompi_mpi_info_null", type: "pointer" }, // MPI_INFO_NULL
  errorsReturn: { name: "ompi_mpi_errors_return", type: "pointer" }, // MPI_ERRORS_RETURN
  byte: { name: "ompi_mpi_byte", type: "pointer" }, // MPI_BYTE
  i8: { name: "ompi_mpi_int8_t", type: "pointer" }, // MPI_INT8_T
  u8: { name: "ompi_mpi_uint8_t", type: "pointer" }, // MPI_UINT8_T
  i16: { name: "ompi_mpi_int16_t", type: "pointer" }, // MPI_INT16_T
  u16: { name: "ompi_mpi_uint16_t", type: "pointer" }, // MPI_UINT16_T
  i32: { name: "ompi_mpi_int32_t", type: "pointer" }, // MPI_INT32_T
  u32: { name: "ompi_mpi_uint32_t", type: "pointer" }, // MPI_UINT32_T
  i64: { name: "ompi_mpi_int64_t", type: "pointer" }, // MPI_INT64_T
  u64: { name: "ompi_mpi_uint64_t", type: "pointer" }, // MPI_UINT64_T
  f32: { name: "ompi_mpi_float", type: "pointer" }, // MPI_FLOAT
  f64: { name: "ompi_mpi_double", type: "pointer" }, // MPI_DOUBLE
  sum: { name: "ompi_mpi_op_sum", type: "pointer" }, // MPI_SUM
  prod: { name: "ompi_mpi_op_prod", type: "pointer" }, // MPI_PROD
  max: { name: "ompi_mpi_op_max", type: "pointer" }, // MPI_MAX
  min: { name: "ompi_mpi_op_min", type: "pointer" }, // MPI_MIN
  band: { name: "ompi_mpi_op_band", type: "pointer" }, // MPI_BAND
  bor: { name: "ompi_mpi_op_bor", type: "pointer" }, // MPI_BOR
  bxor: { name: "ompi_mpi_op_bxor", type: "pointer" }, // MPI_BXOR
} as const satisfies Record<keyof NamedHandles, Deno.ForeignStatic>;

/** Open MPI's side of {@linkcode MpiAbi}. */
export const OPEN_MPI: MpiAbi = {
  name: "Open MPI",
  handle: "pointer",
  inPlace: 1n, // #define MPI_IN_PLACE ((void *) 1)
  anySource: -1,
  anyTag: -1,
  tagUpperBound: 0, // MPI_TAG_UB, the first of an enumeration
  truncated: 15, // MPI_ERR_TRUNCATE
  statusBytes: 24, // { int MPI_SOURCE, MPI_TAG, MPI_ERROR, _cancelled; size_t _ucount; }
  statusSource: 0,
  statusTag: 1,

  predefined(path) {
    const library = Deno.dlopen(path, SYMBOLS);
    return library.symbols as unknown as NamedHandles; // addresses, not null: the symbols exist
  },

  readHandle(memory) {
    const address = new BigUint64Array(memory.buffer, memory.byteOffset, 1)[0]!;
    return Deno.UnsafePointer.create(address) as unknown as Handle;
  },
};
