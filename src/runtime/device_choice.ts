/** On what ranks compute, as users say it: CPUs, or a GPU each. */
import { UsageError } from "../core/errors.ts";
import { didYouMean } from "../core/suggest.ts";

/** On what a rank computes; `auto` is a GPU where there is one for every rank of the host, else the CPU. */
export type DeviceChoice = "auto" | "cpu" | "cuda";
/** All of them. */
export const DEVICES: readonly DeviceChoice[] = ["auto", "cpu", "cuda"];

/** In what a GPU holds weights, states and results of layers; sums are always made in 32 bits. */
export type HeldDType = "fp32" | "fp16" | "bf16";
/** All of them. */
export const HELD_DTYPES: readonly HeldDType[] = ["fp32", "fp16", "bf16"];

/** @throws {UsageError} Unless `name` is a device. */
export function requireDevice(name: string): DeviceChoice {
  return known("device", name, DEVICES);
}

/** @throws {UsageError} Unless `name` is a dtype that a GPU can hold a model in. */
export function requireHeldDType(name: string): HeldDType {
  return known("dtype", name, HELD_DTYPES);
}

function known<T extends string>(what: string, name: string, all: readonly T[]): T {
  const found = all.find((one) => one === name);
  if (found !== undefined) return found;
  throw new UsageError(`Unknown ${what} ${JSON.stringify(name)}${didYouMean(name, all)}`, {
    hint: `use one of ${all.join(", ")}`,
  });
}
