/** What lies at a path. */

/** Whether there is a file that may be looked at. */
export function isFile(path: string): boolean {
  return statOf(path)?.isFile ?? false;
}

/** Whether there is a folder that may be looked at. */
export function isFolder(path: string): boolean {
  return statOf(path)?.isDirectory ?? false;
}

/** Whether there is anything at all: a device and a pipe are neither files nor folders. */
export function exists(path: string): boolean {
  return statOf(path) !== undefined;
}

function statOf(path: string): Deno.FileInfo | undefined {
  try {
    return Deno.statSync(path);
  } catch {
    return undefined;
  }
}
