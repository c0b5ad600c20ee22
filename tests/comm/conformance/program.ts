// deno-lint-ignore-file no-console -- a rank reports to its test by its output
/**
 * A rank of a conformance run; prints what was done as JSON: { cases, unsupported, hash, backend, ms }.
 *
 *     SHARDWISE_COMM_BACKEND=mpi deno run -A tests/comm/conformance/program.ts [sizes = 0,1,3,1023] [sparse = 1] [dtypes = all]
 *
 * Whatever starts ranks starts it: the launcher, mpirun, srun.
 */
import { COMM_DTYPES } from "../../../src/runtime/comm/buffers.ts";
import { requireBackend } from "../../../src/runtime/comm/engines.ts";
import { init } from "../../../src/runtime/comm/init.ts";
import { conformanceCases } from "./cases.ts";

const [sizes = "0,1,3,1023", sparse = "1", dtypes = ""] = Deno.args;
const start = performance.now();
const comm = await init({
  backend: requireBackend(Deno.env.get("SHARDWISE_COMM_BACKEND") ?? "auto"),
  timeoutMs: 600_000, // a rank may check its results for minutes while the others wait
});
const result = await conformanceCases(comm, {
  sizes: sizes.split(",").map(Number),
  sparse: Number(sparse),
  dtypes: dtypes === "" ? COMM_DTYPES : COMM_DTYPES.filter((d) => dtypes.split(",").includes(d)),
});
await comm.close();
console.log(JSON.stringify({ ...result, backend: comm.backend, ms: Math.round(performance.now() - start) }));
