/** The command line of the launcher: `deno task launch [flags] script.ts args…`. */
import { describeError, ShardwiseError } from "../src/core/errors.ts";
import { EXIT } from "../src/core/exit_codes.ts";
import { parseArgs } from "./args.ts";
import { launch } from "./launch.ts";
import { ProgramError } from "./program_check.ts";

/** Runs a command line and resolves to the exit code. */
export async function main(args: readonly string[]): Promise<number> {
  const parsed = await parseArgs(args, Deno.env.toObject());
  if (parsed.action === "run") return await launch(parsed.config!);
  const { inform } = await import("./inform.ts");
  await Deno.stdout.write(new TextEncoder().encode(inform(parsed, Deno.env.toObject())));
  return 0;
}

function exitCodeOf(error: ShardwiseError): number {
  if (error instanceof ProgramError) return error.exitCode;
  return error.name === "RendezvousError" || error.name === "StoreError" ? EXIT.rendezvous : EXIT.usage;
}

if (import.meta.main) {
  let code: number;
  try {
    code = await main(Deno.args);
  } catch (error) {
    if (!(error instanceof ShardwiseError)) throw error;
    Deno.stderr.writeSync(new TextEncoder().encode(`error: ${describeError(error)}\n`));
    code = exitCodeOf(error);
  }
  Deno.exit(code);
}
