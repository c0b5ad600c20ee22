/** The files by which Linux tells of itself, so that the readers of them can be given other machines' files. */
import { builtinModule } from "../../core/builtin.ts";

/** What is read of a machine. */
export interface HostFiles {
  /** A file's text, trimmed; undefined where there is none or it may not be read. */
  readonly text: (path: string) => string | undefined;
  /** Names in a folder, sorted; none where there is no folder. */
  readonly names: (path: string) => readonly string[];
  /** Bytes of the file system of `path`; undefined where there is none. */
  readonly space: (path: string) => { readonly total: number; readonly free: number } | undefined;
}

/** This machine's. */
export const THIS_HOST: HostFiles = {
  text(path) {
    try {
      return Deno.readTextFileSync(path).trim();
    } catch {
      return undefined;
    }
  },
  names(path) {
    try {
      return [...Deno.readDirSync(path)].map((entry) => entry.name).toSorted();
    } catch {
      return [];
    }
  },
  space(path) {
    try {
      const { blocks, bavail, bsize } = builtinModule("node:fs").statfsSync(path);
      return { total: blocks * bsize, free: bavail * bsize };
    } catch {
      return undefined;
    }
  },
};
