// deno-fmt-ignore-file: one environment a line
import assert from "node:assert/strict";
import { UsageError } from "./errors.ts";
import { detectLaunchEnv, type LaunchEnv } from "./launch_env.ts";

/** Environments as schedulers make them, and who they say a process is. */
const GOLDEN: [name: string, env: Record<string, string>, expected: Partial<LaunchEnv>][] = [
  ["nothing", { HOME: "/root" }, { scheme: "single", rank: 0, worldSize: 1, localRank: 0, localWorldSize: 1, nnodes: 1 }],
  ["the launcher", {
    RANK: "3", WORLD_SIZE: "4", LOCAL_RANK: "1", LOCAL_WORLD_SIZE: "2", NODE_RANK: "1", NNODES: "2", MASTER_ADDR: "h", MASTER_PORT: "5",
    SHARDWISE_RANK: "3", SHARDWISE_WORLD_SIZE: "4", SHARDWISE_RUN_ID: "9-8-7-abcd", SHARDWISE_ATTEMPT: "2", SHARDWISE_STORE_TOKEN: "t",
  }, { scheme: "shardwise", rank: 3, worldSize: 4, localRank: 1, nodeRank: 1, nnodes: 2, masterAddr: "h", masterPort: 5, runId: "9-8-7-abcd", attempt: 2, storeToken: "t" }],
  ["the launcher inside a Slurm step with one task a node", {
    SHARDWISE_RANK: "5", SHARDWISE_WORLD_SIZE: "8", LOCAL_RANK: "1", LOCAL_WORLD_SIZE: "4", RANK: "5", WORLD_SIZE: "8",
    SLURM_STEP_ID: "0", SLURM_STEP_NODELIST: "n[1-2]", SLURM_PROCID: "1", SLURM_STEP_NUM_TASKS: "2",
  }, { scheme: "shardwise", rank: 5, worldSize: 8, localRank: 1 }],
  ["torchrun's four variables", { RANK: "1", WORLD_SIZE: "2", MASTER_ADDR: "10.0.0.1", MASTER_PORT: "29500" },
    { scheme: "torch", rank: 1, worldSize: 2, localRank: 1, masterAddr: "10.0.0.1", masterPort: 29500, runId: "torch-10.0.0.1-29500-2-0" }],
  ["torchrun as a Slurm task: more ranks than tasks", {
    RANK: "9", WORLD_SIZE: "16", LOCAL_RANK: "1", LOCAL_WORLD_SIZE: "8", GROUP_RANK: "1", GROUP_WORLD_SIZE: "2", MASTER_ADDR: "a", MASTER_PORT: "1",
    TORCHELASTIC_RUN_ID: "x", SLURM_STEP_ID: "0", SLURM_STEP_NODELIST: "n[1-2]", SLURM_PROCID: "1", SLURM_STEP_NUM_TASKS: "2",
  }, { scheme: "torch", rank: 9, worldSize: 16, localRank: 1, nodeRank: 1, nnodes: 2 }],
  ["Open MPI 4 on one host", {
    OMPI_COMM_WORLD_RANK: "2", OMPI_COMM_WORLD_SIZE: "4", OMPI_COMM_WORLD_LOCAL_RANK: "2", OMPI_COMM_WORLD_LOCAL_SIZE: "4",
    OMPI_COMM_WORLD_NODE_RANK: "2", OMPI_MCA_orte_hnp_uri: "1578500096.0;tcp://192.0.2.2:48913;tcp6://[::1]:1", PMIX_NAMESPACE: "1578500097",
  }, { scheme: "openmpi", rank: 2, worldSize: 4, localRank: 2, nodeRank: 0, nnodes: 1, masterAddr: "192.0.2.2", runId: "openmpi-1578500097" }],
  ["Open MPI on two hosts: its NODE_RANK is no node index", {
    OMPI_COMM_WORLD_RANK: "3", OMPI_COMM_WORLD_SIZE: "4", OMPI_COMM_WORLD_LOCAL_RANK: "1", OMPI_COMM_WORLD_LOCAL_SIZE: "2", OMPI_COMM_WORLD_NODE_RANK: "1",
  }, { scheme: "openmpi", rank: 3, localRank: 1, nodeRank: 1, nnodes: 2, localWorldSize: 2 }],
  ["mpirun inside an allocation: the step is the daemon's", {
    OMPI_COMM_WORLD_RANK: "1", OMPI_COMM_WORLD_SIZE: "4", OMPI_COMM_WORLD_LOCAL_RANK: "1", OMPI_COMM_WORLD_LOCAL_SIZE: "4",
    SLURM_STEP_ID: "0", SLURM_STEP_NODELIST: "n1", SLURM_PROCID: "0", SLURM_STEP_NUM_TASKS: "1",
  }, { scheme: "openmpi", rank: 1, worldSize: 4 }],
  ["Hydra", { PMI_RANK: "1", PMI_SIZE: "2", MPI_LOCALRANKID: "1", MPI_LOCALNRANKS: "2" }, { scheme: "hydra", rank: 1, worldSize: 2, localRank: 1, localWorldSize: 2 }],
  ["MVAPICH", { MV2_COMM_WORLD_RANK: "0", MV2_COMM_WORLD_SIZE: "2", MV2_COMM_WORLD_LOCAL_RANK: "0", MV2_COMM_WORLD_LOCAL_SIZE: "2" }, { scheme: "hydra", rank: 0, worldSize: 2 }],
  ["srun", {
    SLURM_JOB_ID: "7", SLURM_STEP_ID: "2", SLURM_STEP_NODELIST: "node[01-02],gpu5", SLURM_STEP_NUM_TASKS: "7", SLURM_STEP_NUM_NODES: "3",
    SLURM_PROCID: "6", SLURM_LOCALID: "0", SLURM_NODEID: "2", SLURM_STEP_TASKS_PER_NODE: "3(x2),1", SLURM_NTASKS: "99",
  }, { scheme: "slurm", rank: 6, worldSize: 7, localRank: 0, localWorldSize: 1, nodeRank: 2, nnodes: 3, masterAddr: "node01", masterPort: 61440 + (7 * 31 + 2), runId: "slurm-7-2-0" }],
  ["srun --mpi=pmi2 sets PMI_RANK beside its own", {
    SLURM_JOB_ID: "7", SLURM_STEP_ID: "0", SLURM_STEP_NODELIST: "n1", SLURM_STEP_NUM_TASKS: "2", SLURM_PROCID: "1", SLURM_LOCALID: "1", PMI_RANK: "1", PMI_SIZE: "2",
  }, { scheme: "slurm", rank: 1, worldSize: 2 }],
  ["a batch script is no step", { SLURM_JOB_ID: "7", SLURM_PROCID: "0", SLURM_NTASKS: "3", SLURM_LOCALID: "0", SLURM_NODELIST: "n1" }, { scheme: "single", rank: 0, worldSize: 1 }],
  ["a stale RANK beside a scheduler", { RANK: "7", OMPI_COMM_WORLD_RANK: "0", OMPI_COMM_WORLD_SIZE: "2" }, { scheme: "openmpi", rank: 0, worldSize: 2 }],
  ["an indexed Job", { JOB_COMPLETION_INDEX: "2", WORLD_SIZE: "4", HOSTNAME: "train-2", SHARDWISE_SERVICE: "train-svc" },
    { scheme: "kubernetes", rank: 2, worldSize: 4, localRank: 0, nodeRank: 2, nnodes: 4, masterAddr: "train-0.train-svc" }],
  ["Kubeflow", { PET_NNODES: "2", PET_NODE_RANK: "1", PET_MASTER_ADDR: "j-trainer-node-0-0.j", PET_MASTER_PORT: "29500" },
    { scheme: "kubernetes", rank: 1, worldSize: 2, masterAddr: "j-trainer-node-0-0.j", masterPort: 29500 }],
  ["a lone indexed Job without a size", { JOB_COMPLETION_INDEX: "2", HOSTNAME: "x-2" }, { scheme: "single", worldSize: 1 }],
];

for (const [name, env, expected] of GOLDEN) {
  Deno.test(`detectLaunchEnv() reads ${name}`, () => {
    const found = detectLaunchEnv(env);
    for (const [key, value] of Object.entries(expected)) assert.equal(found[key as keyof LaunchEnv], value, key);
  });
}

const REFUSED: [name: string, env: Record<string, string>, message: RegExp][] = [
  ["torch variables that contradict mpirun", { RANK: "0", WORLD_SIZE: "1", MASTER_ADDR: "a", MASTER_PORT: "1", OMPI_COMM_WORLD_RANK: "1", OMPI_COMM_WORLD_SIZE: "2" },
    /torch says rank 0 of 1, but openmpi says rank 1 of 2/],
  ["two MPIs that contradict each other", { OMPI_COMM_WORLD_RANK: "0", OMPI_COMM_WORLD_SIZE: "2", PMI_RANK: "0", PMI_SIZE: "1" }, /0 of 2.*0 of 1/],
  ["a rank outside of the world", { SHARDWISE_RANK: "4", SHARDWISE_WORLD_SIZE: "4" }, /rank 4 with worldSize 4/],
  ["a rank without a world", { SHARDWISE_RANK: "4" }, /SHARDWISE_WORLD_SIZE is not/],
  ["a rank that is no number", { SHARDWISE_RANK: "x", SHARDWISE_WORLD_SIZE: "4" }, /SHARDWISE_RANK="x"/],
  ["RANK and WORLD_SIZE without an address", { RANK: "0", WORLD_SIZE: "2" }, /MASTER_ADDR and MASTER_PORT/],
  ["Hydra over hosts without an address", { PMI_RANK: "1", PMI_SIZE: "4", MPI_LOCALRANKID: "1", MPI_LOCALNRANKS: "2" }, /gives no address/],
  ["pods without a name for pod 0", { JOB_COMPLETION_INDEX: "1", WORLD_SIZE: "2", HOSTNAME: "x-1" }, /pod 0 of 2/],
];

for (const [name, env, message] of REFUSED) {
  Deno.test(`detectLaunchEnv() refuses ${name}`, () => {
    assert.throws(() => detectLaunchEnv(env), (error) => error instanceof UsageError && message.test(error.message));
  });
}

Deno.test("detectLaunchEnv() gives single processes run ids of their own, that no job's cleanup takes for a dead one's", () => {
  const [a, b] = [detectLaunchEnv({}), detectLaunchEnv({})];
  assert.notEqual(a.runId, b.runId);
  assert.match(a.runId, /^single-[0-9a-f]{16}$/);
});
