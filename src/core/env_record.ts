/** Environment variables as data: read, never changed. */
import { UsageError } from "./errors.ts";

/** A record of environment variables, such as `Deno.env.toObject()`. */
export type EnvRecord = Readonly<Record<string, string | undefined>>;

/** The non-negative integer in `env[name]`; undefined if unset or empty. @throws {UsageError} If it is something else. */
export function number(env: EnvRecord, name: string): number | undefined {
  const text = env[name]?.trim();
  if (text === undefined || text === "") return undefined;
  if (!/^\d{1,15}$/.test(text)) {
    throw new UsageError(`Cannot use ${name}=${JSON.stringify(text)}: expected a whole number, 0 or more`);
  }
  return Number(text);
}

/** Whether `env[name]` is set to something. */
export function filled(env: EnvRecord, name: string): boolean {
  return (env[name] ?? "").trim() !== "";
}
