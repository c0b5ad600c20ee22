// deno-lint-ignore-file no-console -- an example
/**
 * Says who each rank is, whoever started it: the launcher, srun, mpirun or Kubernetes.
 *
 *     deno task launch --nproc 4 examples/cluster/hello.ts
 *     srun -n 4 deno run -A examples/cluster/hello.ts
 *     mpirun -n 4 deno run -A examples/cluster/hello.ts
 */
import { detectLaunchEnv } from "../../src/core/launch_env.ts";

const me = detectLaunchEnv(Deno.env.toObject());
console.log(
  `rank ${me.rank} of ${me.worldSize} on ${Deno.hostname()} (local rank ${me.localRank} of ${me.localWorldSize}, node ${me.nodeRank} of ${me.nnodes}), ` +
    `started by ${me.scheme}, meets at ${me.masterAddr}:${me.masterPort}`,
);
