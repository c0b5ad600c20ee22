/**
 * Short words for tables of C functions that return a status, and calls that are checked.
 *
 * Handles, streams, device and pinned addresses are `u64` (bigint), memory that JavaScript owns is `buffer`, sizes are `usize`
 * (pass bigint: a number leaves the fast path and costs 15 times more), statuses and enums are `i32`.
 */
import { UnavailableError } from "../core/errors.ts";

/** A row for a function that takes `parameters` and returns a status. */
export function status<const P extends readonly Deno.NativeType[]>(...parameters: P): {
  readonly parameters: P;
  readonly result: "i32";
} {
  return { parameters, result: "i32" };
}

/** The same for a function that older libraries lack; its symbol is null there. */
export function since<const P extends readonly Deno.NativeType[]>(...parameters: P): {
  readonly parameters: P;
  readonly result: "i32";
  readonly optional: true;
} {
  return { parameters, result: "i32", optional: true };
}

/** The functions of a table that return a status, as functions that throw where it is none of success. */
export type CheckedCalls<Table extends Deno.ForeignLibraryInterface> = {
  readonly [
    K in keyof Table as Table[K] extends { readonly result: "i32" } ? K : never
  ]: NonNullable<Deno.StaticForeignLibraryInterface<Table>[K]> extends (...args: infer A) => unknown
    ? (...args: A) => void
    : never;
};

/** What {@linkcode checkedCalls} needs. */
export interface CheckedOptions {
  /** Where the library lies; for the message about a symbol that it lacks. */
  readonly path: string;
  /** Throws if `status` of `call` is an error. */
  readonly check: (status: number, call: string) => void;
}

/** Wraps every status function of `table`, so that no caller can forget to look at the status. */
export function checkedCalls<Table extends Deno.ForeignLibraryInterface>(
  table: Table,
  symbols: Deno.StaticForeignLibraryInterface<Table>,
  options: CheckedOptions,
): CheckedCalls<Table> {
  const calls: Record<string, (...args: unknown[]) => void> = {};
  for (const [name, row] of Object.entries(table)) {
    if (!("result" in row) || row.result !== "i32") continue;
    const symbol = (symbols as Record<string, ((...args: unknown[]) => number) | null>)[name] ?? null;
    calls[name] = symbol === null ? missing(name, options.path) : (...args) => {
      const status = symbol(...args);
      if (status !== 0) options.check(status, name);
    };
  }
  return calls as unknown as CheckedCalls<Table>;
}

/** The text of a C string at `address`; empty at null. */
export function textAt(address: bigint | Deno.PointerValue): string {
  const pointer = typeof address === "bigint" ? Deno.UnsafePointer.create(address) : address;
  return pointer === null ? "" : Deno.UnsafePointerView.getCString(pointer);
}

/** `text` as a C string. */
export function cString(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(`${text}\0`);
}

/** Where the memory of `view` lies. The address is good as long as `view` is referenced. */
export function addressOf(view: ArrayBufferView<ArrayBuffer>): bigint {
  return BigInt(Deno.UnsafePointer.value(Deno.UnsafePointer.of(view)));
}

function missing(name: string, path: string): () => never {
  return () => {
    throw new UnavailableError(`Cannot call ${name}: ${path} does not have it`, {
      hint: "install a newer driver or library",
    });
  };
}
