/** The environment in which tests start Open MPI. */

const folders: string[] = [];
addEventListener("unload", () => folders.forEach((folder) => Deno.removeSync(folder, { recursive: true })));

/**
 * The environment of one job: root, which Open MPI refuses otherwise, and a folder of the job's own. Jobs that begin and end at once in
 * the machine's folder remove it under each other ("unable to create the desired directory: File exists").
 */
export function openMpiEnv(): Record<string, string> {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-mpi-" });
  folders.push(folder);
  return {
    OMPI_ALLOW_RUN_AS_ROOT: "1",
    OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1",
    OMPI_MCA_orte_tmpdir_base: folder,
  };
}
