/** `--set NAME=SIZE`: sizes of symbolic dims. */
import type { ParsedArgs } from "./command.ts";

/** What `--set` says, by name. @throws {UsageError} If it cannot be read. */
export function namedSizes(args: ParsedArgs): Record<string, number> {
  return Object.fromEntries(
    args.texts("set").map((text) => {
      const [, name, size] = /^([^=]+)=(\d+)$/.exec(text) ?? [];
      if (name === undefined) throw args.error(`--set ${JSON.stringify(text)} is not NAME=SIZE`);
      return [name, Number(size)] as const;
    }),
  );
}
