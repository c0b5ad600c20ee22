/** Files that commands write where their user says. */
import { dirname } from "node:path";
import { cannotWrite } from "../src/core/errors.ts";
import { exists, isFolder } from "../src/core/paths.ts";
import type { ParsedArgs } from "./command.ts";
import { printNote } from "./print.ts";

/**
 * Tells before any work that option `name` asks for a file that cannot be written.
 *
 * @throws {UsageError} If there is no folder for it. @throws {FormatError} If the system refuses it.
 */
export function checkOutput(path: string | undefined, name: string, args: ParsedArgs): void {
  if (path === undefined) return;
  requireFolder(path, name, args);
  // A device that is no file (/dev/stdout) is not ours to remove.
  const isNew = !exists(path);
  try {
    Deno.openSync(path, { append: true, create: true }).close();
    if (isNew) Deno.removeSync(path);
  } catch (cause) {
    throw cannotWrite(path, cause);
  }
}

/** Writes `text` to `path`, and says so. @throws {FormatError} If the system refuses it. */
export function writeOutput(path: string, text: string): void {
  try {
    Deno.writeTextFileSync(path, text);
  } catch (cause) {
    throw cannotWrite(path, cause);
  }
  printNote(`wrote ${path}`);
}

/** @throws {UsageError} If there is no folder for the file that option `name` asks for. */
export function requireFolder(path: string, name: string, args: ParsedArgs): void {
  const folder = dirname(path);
  if (isFolder(folder)) return;
  throw args.error(`there is no folder ${folder} for --${name} ${path}`, `mkdir -p ${folder}`);
}
