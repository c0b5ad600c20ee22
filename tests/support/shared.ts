/**
 * Finds test data outside the repository: the folder that `SHARDWISE_SHARED` names, or a folder `shared` (known by its DESIGN.md) beside the
 * repository or beside one of its parents.
 */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The root of the repository. */
export const REPOSITORY: string = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** The path of `name` in the shared folder, or undefined where there is none. */
export function sharedPath(name: string): string | undefined {
  const root = sharedRoot();
  const path = root === undefined ? undefined : join(root, name);
  return path !== undefined && existsSync(path) ? path : undefined;
}

/** {@linkcode sharedPath} for a test that cannot go on without: prints why it is skipped. */
export function sharedOrSkip(name: string): string | undefined {
  const path = sharedPath(name);
  if (path === undefined) {
    // deno-lint-ignore no-console
    console.log(`skipped: no ${name} in a shared folder beside the repository; set SHARDWISE_SHARED to its path`);
  }
  return path;
}

function sharedRoot(): string | undefined {
  const named = Deno.env.get("SHARDWISE_SHARED");
  if (named) return named;
  for (let folder = REPOSITORY; dirname(folder) !== folder; folder = dirname(folder)) {
    const candidate = join(dirname(folder), "shared");
    if (existsSync(join(candidate, "DESIGN.md"))) return candidate;
  }
  return undefined;
}
