/** Stored cases for models that are held in another dtype than their references were made in. */
import type { HeldDType } from "../src/runtime/device_choice.ts";
import type { FolderCases } from "./cases.ts";

/** Of the largest element, half the distance to the next number: what rounding it once costs. */
const ROUNDING: Readonly<Record<HeldDType, number>> = { fp32: 2 ** -24, fp16: 2 ** -11, bf16: 2 ** -8 };

/** Roundings that may add up in an output. */
const ROUNDINGS = 12;

/**
 * `found` as it may be asked of a model that is held in `dtype`: outputs may differ by roundings of the largest element, beside what
 * their cases allow; a text may go another way at its first near tie, so that it is not compared.
 */
export function heldCases(found: FolderCases, dtype: HeldDType | undefined): FolderCases {
  if (dtype === undefined || dtype === "fp32") return found;
  const ofLargest = ROUNDINGS * ROUNDING[dtype];
  const outputs = found.cases.flatMap((c) => (c.kind === "outputs" ? [{ ...c, ofLargest }] : []));
  const texts = found.cases.filter((c) => c.kind !== "outputs").map(({ name }) => ({
    name,
    reason: `a text may be another one in ${dtype}`,
  }));
  return { cases: outputs, skipped: [...found.skipped, ...texts] };
}
