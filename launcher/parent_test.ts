import assert from "node:assert/strict";
import { startsJobs } from "./parent.ts";

Deno.test("`deno task`, mpirun and their daemons start jobs; shells and other programs do not", () => {
  const yes = [
    "/usr/bin/deno task launch",
    "deno task --quiet launch",
    "mpirun.openmpi -n 4",
    "/opt/mpi/bin/prted",
    "slurmstepd: [4.0]",
  ];
  const no = ["/bin/bash -c x", "deno run -A task.ts", "mpirun_log", ""];
  for (const line of yes) assert.ok(startsJobs(line.split(" ")), line);
  for (const line of no) assert.ok(!startsJobs(line.split(" ")), line);
});
