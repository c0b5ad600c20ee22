/**
 * MPICH's binary interface, which Intel MPI, MVAPICH and Cray MPICH share (https://www.mpich.org/abi): a handle is an int, and
 * those of predefined objects are constants. Source: `mpi.h` of MPICH 4.0.
 */
import type { Handle, MpiAbi, NamedHandles } from "./mpi.ts";

const HANDLES = {
  world: 0x44000000, // MPI_COMM_WORLD
  infoNull: 0x1c000000, // MPI_INFO_NULL
  errorsReturn: 0x54000001, // MPI_ERRORS_RETURN
  byte: 0x4c00010d, // MPI_BYTE
  i8: 0x4c000137, // MPI_INT8_T
  u8: 0x4c00013b, // MPI_UINT8_T
  i16: 0x4c000238, // MPI_INT16_T
  u16: 0x4c00023c, // MPI_UINT16_T
  i32: 0x4c000439, // MPI_INT32_T
  u32: 0x4c00043d, // MPI_UINT32_T
  i64: 0x4c00083a, // MPI_INT64_T
  u64: 0x4c00083e, // MPI_UINT64_T
  f32: 0x4c00040a, // MPI_FLOAT
  f64: 0x4c00080b, // MPI_DOUBLE
  sum: 0x58000003, // MPI_SUM
  prod: 0x58000004, // MPI_PROD
  max: 0x58000001, // MPI_MAX
  min: 0x58000002, // MPI_MIN
  band: 0x58000006, // MPI_BAND
  bor: 0x58000008, // MPI_BOR
  bxor: 0x5800000a, // MPI_BXOR
} as const satisfies Record<keyof NamedHandles, number>;

/** MPICH's side of {@linkcode MpiAbi}. */
export const MPICH: MpiAbi = {
  name: "MPICH",
  handle: "i32",
  inPlace: 0xffff_ffff_ffff_ffffn, // #define MPI_IN_PLACE (void *) -1
  anySource: -2,
  anyTag: -1,
  tagUpperBound: 0x64400001, // MPI_TAG_UB
  truncated: 14, // MPI_ERR_TRUNCATE
  statusBytes: 20, // { int count_lo, count_hi_and_cancelled, MPI_SOURCE, MPI_TAG, MPI_ERROR; }
  statusSource: 2,
  statusTag: 3,

  predefined() {
    return HANDLES as unknown as NamedHandles;
  },

  readHandle(memory) {
    return new Int32Array(memory.buffer, memory.byteOffset, 1)[0] as unknown as Handle;
  },
};
