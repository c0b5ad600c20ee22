/** What lies at a path. */

/** Whether there is a file that may be looked at. */
export function isFile(path: string): boolean {
  return statOf(path)?.isFile ?? false;
}

/** Whether there is a folder that may be looked at. */
export function isFolder(path: string): boolean {
  return statOf(path)?.isDirectory ?? false;
}

function statOf(path: string): Deno.FileInfo | undefined {
  try {
    return Deno.statSync(path);
  } catch {
    return undefined;
  }
}
