/** Stored cases for models that are held in another dtype than their references were made in. */
import type { HeldDType } from "../src/runtime/device_choice.ts";
import type { FolderCases } from "./cases.ts";

/** `found` as it may be asked of a model that is held in `dtype`: a text may go another way at its first near tie, so that it is not compared. */
export function heldCases(found: FolderCases, dtype: HeldDType | undefined): FolderCases {
  if (dtype === undefined || dtype === "fp32") return found;
  const outputs = found.cases.filter((c) => c.kind === "outputs");
  const texts = found.cases.filter((c) => c.kind !== "outputs").map(({ name }) => ({
    name,
    reason: `a text may be another one in ${dtype}`,
  }));
  return { cases: outputs, skipped: [...found.skipped, ...texts] };
}
