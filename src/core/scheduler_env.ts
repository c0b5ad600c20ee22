/** The variables of cluster schedulers: Open MPI, Hydra, Slurm and Kubernetes, each read into the common form. */
import { type EnvRecord, filled, number } from "./env_record.ts";
import { UsageError } from "./errors.ts";
import { expandHostList, tasksOnNode } from "./host_list.ts";
import type { PartialLaunchEnv } from "./launch_env.ts";
import { fileSafe, hash12 } from "./run_id.ts";

/**
 * What the innermost scheduler of `env` says about this process; undefined when there is none.
 *
 * mpirun inside a Slurm allocation starts its daemons by srun, so that Slurm's step variables then describe the daemon: mpirun's
 * own variables win without a question. Open MPI and Hydra at once cannot both be right.
 *
 * @throws {UsageError} If Open MPI and Hydra contradict each other, or a value is malformed.
 */
export function schedulerEnv(env: EnvRecord): PartialLaunchEnv | undefined {
  const ompi = openMpi(env);
  const pmi = hydra(env);
  if (ompi !== undefined && pmi !== undefined && (ompi.rank !== pmi.rank || ompi.worldSize !== pmi.worldSize)) {
    throw new UsageError(
      `Cannot tell which rank this is: OMPI_COMM_WORLD_RANK says ${ompi.rank} of ${ompi.worldSize}, but PMI_RANK says ${pmi.rank} of ${pmi.worldSize}`,
      { hint: "start the program with the mpirun of one MPI only, or unset the other's variables" },
    );
  }
  // srun --mpi=pmi2 sets PMI_RANK beside its own; Slurm's say more.
  const step = slurm(env);
  if (ompi === undefined && pmi !== undefined && step?.rank === pmi.rank && step.worldSize === pmi.worldSize) {
    return step;
  }
  return ompi ?? pmi ?? step ?? kubernetes(env);
}

function openMpi(env: EnvRecord): PartialLaunchEnv | undefined {
  const rank = number(env, "OMPI_COMM_WORLD_RANK");
  const worldSize = number(env, "OMPI_COMM_WORLD_SIZE");
  if (rank === undefined || worldSize === undefined) return undefined;
  const name = env.PMIX_NAMESPACE ?? env.OMPI_MCA_ess_base_jobid ?? env.OMPI_MCA_orte_hnp_uri?.split(";")[0] ?? "";
  // OMPI_COMM_WORLD_NODE_RANK is no node index: it counts this process among those of its node. The node follows in `complete`
  // from rank and local size, which holds for mpirun's default mapping, by slot.
  return {
    scheme: "openmpi",
    rank,
    worldSize,
    localRank: number(env, "OMPI_COMM_WORLD_LOCAL_RANK"),
    localWorldSize: number(env, "OMPI_COMM_WORLD_LOCAL_SIZE"),
    nodeRank: bySlot(rank, number(env, "OMPI_COMM_WORLD_LOCAL_RANK"), number(env, "OMPI_COMM_WORLD_LOCAL_SIZE")),
    masterAddr: env.MASTER_ADDR ?? hnpHost(env.OMPI_MCA_orte_hnp_uri),
    masterPort: number(env, "MASTER_PORT") ?? 61440 + hash12(name),
    runId: `openmpi-${fileSafe(name)}`,
  };
}

/** The first host of `1578500096.0;tcp://192.0.2.2:48913;tcp6://[..]:p`: where mpirun runs, and with it rank 0 by default. */
function hnpHost(uri: string | undefined): string | undefined {
  return uri === undefined ? undefined : /tcp:\/\/([^:,/;]+)[^;]*/.exec(uri)?.[1];
}

function bySlot(rank: number, localRank: number | undefined, localSize: number | undefined): number | undefined {
  if (localRank === undefined || !localSize || (rank - localRank) % localSize !== 0) return undefined;
  return (rank - localRank) / localSize;
}

function hydra(env: EnvRecord): PartialLaunchEnv | undefined {
  const mvapich = filled(env, "MV2_COMM_WORLD_RANK");
  const rank = number(env, mvapich ? "MV2_COMM_WORLD_RANK" : "PMI_RANK");
  const worldSize = number(env, mvapich ? "MV2_COMM_WORLD_SIZE" : "PMI_SIZE");
  if (rank === undefined || worldSize === undefined) return undefined;
  const localRank = number(env, mvapich ? "MV2_COMM_WORLD_LOCAL_RANK" : "MPI_LOCALRANKID") ??
    number(env, "PALS_LOCAL_RANKID");
  const localWorldSize = number(env, mvapich ? "MV2_COMM_WORLD_LOCAL_SIZE" : "MPI_LOCALNRANKS");
  const name = env.PMI_KVSNAME ?? env.PMI_JOBID ?? env.PMI_PORT ?? env.HYDI_CONTROL_FD ?? "";
  if (localWorldSize !== undefined && localWorldSize < worldSize && !filled(env, "MASTER_ADDR")) {
    throw new UsageError(
      `Cannot find rank 0: Hydra started ${worldSize} ranks, ${localWorldSize} of them here, and gives no address`,
      {
        hint: "pass one: mpirun -genv MASTER_ADDR <host of rank 0> …",
      },
    );
  }
  return {
    scheme: "hydra",
    rank,
    worldSize,
    localRank,
    localWorldSize,
    nodeRank: bySlot(rank, localRank, localWorldSize),
    masterAddr: env.MASTER_ADDR,
    masterPort: number(env, "MASTER_PORT") ?? 61440 + hash12(name),
    runId: `hydra-${fileSafe(name)}-${worldSize}`,
  };
}

/** A task of a Slurm step. A batch script has SLURM_PROCID and SLURM_NTASKS too, but is no step: there is only one of it. */
function slurm(env: EnvRecord): PartialLaunchEnv | undefined {
  if (!filled(env, "SLURM_STEP_ID") || !filled(env, "SLURM_STEP_NODELIST")) return undefined;
  const rank = number(env, "SLURM_PROCID");
  const worldSize = number(env, "SLURM_STEP_NUM_TASKS") ?? number(env, "SLURM_NTASKS");
  if (rank === undefined || worldSize === undefined) return undefined;
  const job = number(env, "SLURM_JOB_ID") ?? number(env, "SLURM_JOBID") ?? 0;
  const step = slurmStep(env);
  const nodeRank = number(env, "SLURM_NODEID") ?? 0;
  const hosts = expandHostList(env.SLURM_STEP_NODELIST!);
  return {
    scheme: "slurm",
    rank,
    worldSize,
    localRank: number(env, "SLURM_LOCALID"),
    localWorldSize: tasksOnNode(env.SLURM_STEP_TASKS_PER_NODE ?? "", nodeRank) ??
      (hosts.length === 1 ? worldSize : undefined),
    nodeRank,
    nnodes: number(env, "SLURM_STEP_NUM_NODES") ?? hosts.length,
    masterAddr: env.MASTER_ADDR ?? hosts[0],
    masterPort: number(env, "MASTER_PORT") ?? slurmPort(job, step),
    runId: `slurm-${job}-${step}-${number(env, "SLURM_RESTART_COUNT") ?? 0}`,
    attempt: number(env, "SLURM_RESTART_COUNT"),
  };
}

/** A port that two steps of a job, and two jobs in a row, do not share. */
export function slurmPort(job: number, step: number): number {
  return 61440 + ((job * 31 + step) % 4096);
}

/** The step's number; `srun --interact` and the like count from 2³² downward and fit as well. */
function slurmStep(env: EnvRecord): number {
  return number(env, "SLURM_STEP_ID") ?? 0;
}

/** A pod of an indexed Job or of Kubeflow that runs one rank; the manifest has to say how many there are. */
function kubernetes(env: EnvRecord): PartialLaunchEnv | undefined {
  const node = podIndex(env);
  const nnodes = number(env, "PET_NNODES") ?? number(env, "SHARDWISE_NNODES") ?? number(env, "WORLD_SIZE");
  if (node === undefined || nnodes === undefined || nnodes < 2) return undefined;
  const masterAddr = env.PET_MASTER_ADDR ?? env.MASTER_ADDR ?? podZero(env, node);
  if (masterAddr === undefined) {
    throw new UsageError(`Cannot find pod 0 of ${nnodes}: neither MASTER_ADDR nor SHARDWISE_SERVICE is set`, {
      hint:
        "add a headless Service (clusterIP: None, publishNotReadyAddresses: true), set spec.subdomain, and SHARDWISE_SERVICE to its name; see examples/cluster",
    });
  }
  return {
    scheme: "kubernetes",
    rank: node,
    worldSize: nnodes,
    localRank: 0,
    localWorldSize: 1,
    nodeRank: node,
    nnodes,
    masterAddr,
    masterPort: number(env, "PET_MASTER_PORT") ?? number(env, "MASTER_PORT") ?? 29500,
    runId: `k8s-${fileSafe(masterAddr)}-${nnodes}`,
    attempt: number(env, "JOBSET_RESTART_ATTEMPT"),
  };
}

/** The index of this pod, if it has one. */
export function podIndex(env: EnvRecord): number | undefined {
  const petRank = env.PET_NODE_RANK?.trim();
  return (petRank !== undefined && /^\d+$/.test(petRank) ? Number(petRank) : undefined) ??
    number(env, "JOB_COMPLETION_INDEX");
}

/** Pod 0's name in the cluster's DNS: pods of an indexed Job are called `<job>-<index>`. */
export function podZero(env: EnvRecord, index: number): string | undefined {
  const service = env.SHARDWISE_SERVICE;
  const host = env.HOSTNAME;
  if (service === undefined || host === undefined || !host.endsWith(`-${index}`)) return undefined;
  return `${host.slice(0, -String(index).length)}0.${service}`;
}
