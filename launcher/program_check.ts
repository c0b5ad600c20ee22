/** Checks the program before ranks are started: N ranks that all fail to find it would say it N times. */
import { ShardwiseError, UsageError } from "../src/core/errors.ts";
import { EXIT } from "../src/core/exit_codes.ts";
import type { LaunchConfig } from "./config.ts";

/** A program of `--exec` that cannot be run; its exit code is a shell's. */
export class ProgramError extends ShardwiseError {
  readonly exitCode: number;

  constructor(message: string, details: { hint: string; exitCode: number }) {
    super(message, details);
    this.exitCode = details.exitCode;
  }
}

/** What of the environment and the file system the check asks for. */
export interface ProgramHost {
  /** The PATH that ranks will have. */
  readonly path: string | undefined;
  /** What `path` is, followed through links. @throws {Deno.errors.NotFound} */
  readonly stat: (path: string) => Pick<Deno.FileInfo, "isFile" | "isDirectory" | "mode">;
  /** @throws {Deno.errors.PermissionDenied} If the file may not be read. */
  readonly open: (path: string) => Disposable;
}

/** The host itself. */
export function programHost(path: string | undefined): ProgramHost {
  return { path, stat: Deno.statSync, open: Deno.openSync };
}

/**
 * Checks that `program` can be started.
 *
 * @throws {UsageError} If a script is no file that can be read. @throws {ProgramError} If an executable is missing or is none.
 */
export function checkProgram(program: LaunchConfig["program"], host: ProgramHost): void {
  if (program.kind === "exec") return checkExecutable(program.command, host);
  const { script } = program, name = JSON.stringify(script);
  if (/^(https?|npm|jsr|data|node):/.test(script)) return;
  const path = script.startsWith("file:") ? decodeURIComponent(new URL(script).pathname) : script;
  const hint = "give a TypeScript or JavaScript file, or use --exec for another program";
  try {
    if (!host.stat(path).isFile) throw new UsageError(`Cannot run ${name}: it is a folder, not a file`, { hint });
    host.open(path)[Symbol.dispose]();
  } catch (cause) {
    if (cause instanceof Deno.errors.NotFound || cause instanceof Deno.errors.NotADirectory) {
      throw new UsageError(`Cannot run ${name}: there is no such file${path.startsWith("/") ? "" : " here"}`, { hint });
    }
    if (cause instanceof Deno.errors.PermissionDenied) {
      throw new UsageError(`Cannot run ${name}: this user may not read it`, {
        hint: "see who owns it and its folders (ls -l), and chmod +r it",
      });
    }
    throw cause;
  }
}

function checkExecutable(command: string, host: ProgramHost): void {
  const name = JSON.stringify(command);
  const missing = (why: string) =>
    new ProgramError(`Cannot run ${name}: ${why}`, {
      hint: "give the path of a program, or the name of one in PATH; without --exec a TypeScript file runs",
      exitCode: EXIT.noProgram,
    });
  if (command === "") throw missing("the name is empty");
  const searched = command.includes("/");
  const places = searched
    ? [command]
    : (host.path ?? "/bin:/usr/bin").split(":").map((dir) => `${dir || "."}/${command}`);
  let found: string | undefined;
  for (const place of places) {
    try {
      const info = host.stat(place);
      if (info.isFile && ((info.mode ?? 0o111) & 0o111) !== 0) return;
      found ??= info.isDirectory ? "it is a folder" : `${place} is not executable`;
    } catch {
      // Look in the next folder.
    }
  }
  if (found === undefined) throw missing(searched ? "there is no such file" : "no folder of PATH has it");
  throw new ProgramError(`Cannot run ${name}: ${found}`, {
    hint: "chmod +x it, or start it by its interpreter, as in --exec sh script.sh",
    exitCode: EXIT.notExecutable,
  });
}
