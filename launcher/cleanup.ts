/** What a job leaves behind and who removes it: shared memory and temporary folders, of this job or of dead ones. */
import { formatRunId, runIdOfShmName, SHM_PREFIX } from "../src/core/run_id.ts";
import { isDead, pidNamespace, readText } from "./host.ts";

const SHM_DIR = "/dev/shm";

/** Removes the shared memory of the job `runId`. Ranks unlink theirs once all have attached; this is for those that died before. */
export function removeSharedMemory(runId: string): void {
  for (const name of names(SHM_DIR)) {
    if (name.startsWith(`${SHM_PREFIX}${runId}-`)) remove(`${SHM_DIR}/${name}`);
  }
}

/** Removes shared memory and temporary folders of jobs whose launcher is dead; returns their paths. Live jobs keep theirs. */
export function removeStale(tempDir: string): string[] {
  const namespace = pidNamespace();
  const stale: string[] = [];
  for (const dir of [SHM_DIR, tempDir]) {
    for (const name of names(dir)) {
      if (!name.startsWith(SHM_PREFIX)) continue;
      const id = runIdOfShmName(name);
      if (id === undefined || !isDead(id, namespace)) continue;
      if (name.endsWith("-tmp")) killLeftovers(formatRunId(id));
      if (remove(`${dir}/${name}`)) stale.push(`${dir}/${name}`);
    }
  }
  return stale;
}

/**
 * Kills processes that ranks of the job `runId` started and that outlived them, even in sessions of their own. They are known by
 * the SHARDWISE_RUN_ID in their environment.
 */
export function killLeftovers(runId: string): void {
  for (const name of names("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === Deno.pid) continue;
    // Only this user's processes can be read, which are those that ranks can have started.
    if (!readText(`/proc/${pid}/environ`)?.split("\0").includes(`SHARDWISE_RUN_ID=${runId}`)) continue;
    try {
      Deno.kill(pid, "SIGKILL");
    } catch {
      // It has just ended.
    }
  }
}

/** The temporary folder of a job, which {@linkcode removeStale} recognises. */
export function jobTempDir(tempDir: string, runId: string): string {
  return `${tempDir}/${SHM_PREFIX}${runId}-tmp`;
}

/** The folder for temporary files. */
export function systemTempDir(): string {
  return (Deno.env.get("TMPDIR") ?? "/tmp").replace(/\/+$/, "") || "/tmp";
}

/**
 * Removes a file or folder; false if that failed, as when another launcher was faster. A rank in its last moments may write
 * its error record into a folder that is just being removed; so a folder that is not empty is tried again for a while.
 */
export function remove(path: string): boolean {
  for (let attempt = 0; attempt < 20; attempt++) {
    try {
      Deno.removeSync(path, { recursive: true });
      return true;
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return attempt > 0;
      // Another user's: that does not change while one waits.
      if (error instanceof Deno.errors.PermissionDenied || error instanceof Deno.errors.NotCapable) return false;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
    }
  }
  return false;
}

function names(dir: string): string[] {
  try {
    return [...Deno.readDirSync(dir)].map((entry) => entry.name);
  } catch {
    return [];
  }
}
