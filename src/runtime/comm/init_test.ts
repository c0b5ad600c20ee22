import assert from "node:assert/strict";
import { jobOf } from "./init.ts";

const HYDRA = { PMI_RANK: "3", PMI_SIZE: "4", MPI_LOCALRANKID: "1", MPI_LOCALNRANKS: "2" };

Deno.test("ranks on several hosts that Hydra started need an address only where the backend does", () => {
  const { rank, worldSize, localWorldSize, nodeRank } = jobOf(HYDRA, "mpi");
  assert.deepEqual({ rank, worldSize, localWorldSize, nodeRank }, {
    rank: 3,
    worldSize: 4,
    localWorldSize: 2,
    nodeRank: 1,
  });
  assert.throws(() => jobOf(HYDRA, "nccl"), /gives no address/);
  assert.equal(jobOf({ ...HYDRA, MASTER_ADDR: "node7" }, "nccl").masterAddr, "node7");
});
