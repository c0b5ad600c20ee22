import assert from "node:assert/strict";
import { UnavailableError } from "../core/errors.ts";
import { findMpi, kindOf, mpiCandidates, startedBy } from "./mpi_library.ts";

Deno.test("findMpi() lists what it tried when there is no such library, and says what to install", () => {
  assert.throws(() => findMpi({ SHARDWISE_LIBMPI: "/nowhere/libmpi.so" }), (error) => {
    assert.ok(error instanceof UnavailableError);
    assert.match(
      error.message,
      /Cannot open libmpi \(from SHARDWISE_LIBMPI\): none of these loads\n {2}\/nowhere\/libmpi\.so: /,
    );
    assert.match(error.hint!, /openmpi-bin.*mpich.*SHARDWISE_LIBMPI/);
    return true;
  });
});

Deno.test("a library that is no MPI is refused", () => {
  assert.throws(() => findMpi({ SHARDWISE_LIBMPI: "libc.so.6" }), /libc\.so\.6: .*MPI_Get_library_version/);
});

Deno.test("the libmpi of the mpirun that started the process is tried first", () => {
  assert.equal(startedBy({}), undefined);
  assert.equal(startedBy({ OMPI_COMM_WORLD_SIZE: "2" }), "openmpi");
  assert.equal(startedBy({ PMI_SIZE: "2" }), "mpich");
  assert.equal(mpiCandidates({ OMPI_COMM_WORLD_SIZE: "2" })[0], "libmpi.so.40");
  assert.deepEqual(mpiCandidates({ PMI_SIZE: "2" }).slice(0, 3), ["libmpich.so.12", "libmpi.so.12", "libmpi.so.40"]);
  assert.ok(mpiCandidates({ MPI_HOME: "/opt/my" }).includes("/opt/my/lib/libmpi.so.40"));
});

Deno.test("everything but Open MPI has MPICH's interface", () => {
  assert.equal(kindOf("Open MPI v5.0.3"), "openmpi");
  assert.equal(kindOf("MPICH Version: 4.0.2"), "mpich");
  assert.equal(kindOf("Intel(R) MPI Library 2021.11 for Linux* OS"), "mpich");
});
