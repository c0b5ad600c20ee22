/** `--html FILE` of `shardwise plan`. */
import type { ExplainOptions } from "../src/explain_model.ts";
import { planPage } from "../src/plan_page.ts";
import type { OptionSpec, ParsedArgs } from "./command.ts";
import { writeOutput } from "./output_file.ts";

/** The option. */
export const HTML: OptionSpec = {
  value: "FILE",
  help:
    "also write the plan as one HTML file: layers that unfold, memory by rank,\na timeline of one step; it needs no network",
};

/** Writes the page that `--html` asks for, if it does. @throws {FormatError} If it cannot be written. */
export async function writePlanPage(
  args: ParsedArgs,
  { model, ...options }: { readonly model: string } & Omit<ExplainOptions, "mesh">,
): Promise<void> {
  const path = args.text("html");
  if (path !== undefined) writeOutput(path, await planPage(model, options));
}
