/** Running the `shardwise` command as users do, for tests. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { REPOSITORY } from "./shared.ts";

/** What a command said, and how it ended. */
export interface CliResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `shardwise ARGS` from the repository's root. */
export function shardwise(...args: readonly string[]): Promise<CliResult> {
  return shardwiseIn({}, ...args);
}

/** The same, with more variables in its environment. */
export async function shardwiseIn(env: Record<string, string>, ...args: readonly string[]): Promise<CliResult> {
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", "cli/main.ts", ...args],
    cwd: REPOSITORY,
    // What somebody measured on this host must not change what tests find.
    env: { NO_COLOR: "1", SHARDWISE_CACHE: join(REPOSITORY, "tests", "no-cache"), ...env },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  });
  const { code, stdout, stderr } = await command.output();
  return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
}

/** The path of a small model that lies in the repository, relative to its root. */
export function testModel(name: string, file = ""): string {
  return join("tests/data/models", name, file);
}

/** The real chat model's folder (see CONTRIBUTING.md), or undefined, after saying why, where there is none. */
export function realModelOrSkip(): string | undefined {
  const root = Deno.env.get("SHARDWISE_MODELS");
  const found = [join(root ?? "", "smollm2-onnx"), root ?? ""].find((f) =>
    root && existsSync(join(f, "reference.json"))
  );
  if (found === undefined) {
    // deno-lint-ignore no-console
    console.log("skipped: SHARDWISE_MODELS names no folder with smollm2-onnx in it");
  }
  return found;
}
