/** Where the weight files of a job lie while its sessions are made. */
import { builtinModule } from "../../core/builtin.ts";
import { byteLength } from "../../core/dtype.ts";
import type { Graph } from "../../graph/graph.ts";

/**
 * Makes a folder of the job's own: in shared memory where there is room for all ranks' weights, else among the temporary
 * files. Its name begins with the job's prefix, so that the launcher removes it should this process be killed.
 */
export function makeWeightFolder(graphs: readonly Graph<"local">[], ranks: number): string {
  const prefix = `shardwise-${Deno.env.get("SHARDWISE_RUN_ID") || `single-${Deno.pid}`}-weights-`;
  const weights = new Set(graphs.flatMap((g) => g.nodes.flatMap((n) => n.kind === "get_attr" ? [n.data] : [])));
  let bytes = 0;
  for (const { dtype, shape } of weights) bytes += byteLength(dtype, shape.reduce((a, b) => a * b, 1));
  // Other ranks may hold a little more than this one.
  const dir = freeBytes("/dev/shm") > bytes * ranks * 1.25 + (64 << 20) ? "/dev/shm" : undefined;
  return Deno.makeTempDirSync(dir ? { prefix, dir } : { prefix });
}

/** Free bytes of the file system of `path`; 0 where that cannot be told. */
function freeBytes(path: string): number {
  try {
    const { bavail, bsize } = builtinModule("node:fs").statfsSync(path);
    return bavail * bsize;
  } catch {
    return 0;
  }
}
