/** `--html FILE` of `shardwise plan`. */
import { dirname } from "node:path";
import type { Config } from "../src/passes/context.ts";
import { planPage } from "../src/plan_page.ts";
import type { OptionSpec, ParsedArgs } from "./command.ts";
import { printNote } from "./print.ts";

/** The option. */
export const HTML: OptionSpec = {
  value: "FILE",
  help:
    "also write the plan as one HTML file: layers that unfold, memory by rank,\na timeline of one step; it needs no network",
};

/** Writes the page that `--html` asks for, if it does. @throws {UsageError} If its folder is missing. */
export async function writePlanPage(
  args: ParsedArgs,
  { model, ranks, config }: { readonly model: string; readonly ranks: number; readonly config: Config },
): Promise<void> {
  const path = args.text("html");
  if (path === undefined) return;
  requireFolder(path, "html", args);
  const page = await planPage(model, { ranks, config });
  Deno.writeTextFileSync(path, page);
  printNote(`wrote ${path}`);
}

/** @throws {UsageError} If there is no folder for the file that option `name` asks for. */
export function requireFolder(path: string, name: string, args: ParsedArgs): void {
  const folder = dirname(path);
  try {
    if (Deno.statSync(folder).isDirectory) return;
  } catch {
    // Told below.
  }
  throw args.error(`there is no folder ${folder} for --${name} ${path}`, `mkdir -p ${folder}`);
}
