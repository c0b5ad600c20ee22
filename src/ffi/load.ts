/**
 * Opening C libraries: lazily, from a list of candidates, with one environment variable to override them, and with an
 * error that lists every path that was tried.
 */
import { UnavailableError } from "../core/errors.ts";

/** Where a library may be found. */
export interface LibrarySpec {
  /** What people call it, for messages: `libc`. */
  readonly name: string;
  /** Paths or sonames, tried in this order; a soname is resolved by the system's loader. */
  readonly candidates: readonly string[];
  /** Environment variable that names the one file to open instead of the candidates. */
  readonly env?: string;
  /** What to do when it is missing: `install libopenmpi3`. */
  readonly hint?: string;
}

/**
 * Opens the first candidate of `spec` that loads and has all the symbols of `table` (`optional: true` symbols may miss).
 *
 * @throws {UnavailableError} If none does, listing each path with its reason.
 */
export function loadLibrary<const Table extends Deno.ForeignLibraryInterface>(
  spec: LibrarySpec,
  table: Table,
): Deno.DynamicLibrary<Table> {
  const override = spec.env === undefined ? undefined : readEnv(spec.env);
  const candidates = override ? [override] : spec.candidates;
  const tried: string[] = [];
  let cause: unknown;
  for (const path of candidates) {
    try {
      return Deno.dlopen(path, table);
    } catch (error) {
      cause = error;
      if (error instanceof Deno.errors.NotCapable || error instanceof Deno.errors.PermissionDenied) {
        throw new UnavailableError(`Cannot open ${spec.name}: FFI is not allowed for ${path}`, {
          hint: "run deno with -A, or with --allow-ffi",
          cause: error,
        });
      }
      tried.push(`  ${path}: ${error instanceof Error ? error.message.split("\n")[0] : String(error)}`);
    }
  }
  const source = override ? ` (from ${spec.env})` : "";
  throw new UnavailableError(`Cannot open ${spec.name}${source}: none of these loads\n${tried.join("\n")}`, {
    hint: [spec.hint, spec.env && `set ${spec.env} to the library's path`].filter(Boolean).join(", or "),
    cause,
  });
}

function readEnv(name: string): string | undefined {
  try {
    return Deno.env.get(name) || undefined;
  } catch {
    return undefined; // no permission to read the environment: then there is no override
  }
}
