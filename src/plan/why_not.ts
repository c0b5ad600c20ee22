/** Why a layer cannot become what somebody wishes, in words. */
import type { Candidates } from "./candidates.ts";
import type { Override } from "./overrides.ts";
import type { PlannedCall } from "./places.ts";

/** The reason; `weight` is the position of the layer's largest weight. Only for wishes that no strategy grants. */
export function whyNot(
  { node, shape, names }: PlannedCall,
  wish: Override,
  { weight, candidates, ranks }: {
    readonly weight: number | undefined;
    readonly candidates: Candidates;
    readonly ranks: number;
  },
): string {
  if (ranks === 1) return "there is one rank only, so nothing is split";
  const { def, rule, context } = shape;
  if (!def?.factors) return `how ${node.op} could be split is not described`;
  const at = weight ?? 0;
  const dims = context.inputs[at]?.shape;
  const what = weight === undefined ? "its first input" : "its weight";
  const of = (test: (f: typeof rule.factors[number]) => boolean) => rule.factors.filter((f) => f.inputs[at] && test(f));
  switch (wish) {
    case "vocab":
      if (rule.factors.some((f) => f.selected || f.internal)) break;
      return "it is neither a table of which rows are selected nor a loss over classes";
    case "column":
      if (weight === undefined) return "it has no weight";
      if (of((f) => f.outputs.some((o) => o)).length > 0) break;
      return "no dim of its weight is a dim of its result";
    case "row":
      if (weight === undefined) return "it has no weight";
      if (of((f) => f.outputs.every((o) => !o) && !f.selected).length > 0) break;
      return "it sums over no dim of its weight";
    case "P(sum)":
      return `${what} enters the result together with other factors, so it cannot be a sum of parts`;
    case "R":
    case "replicated":
      break;
    default: {
      const dim = Number(/\d+/.exec(wish)![0]);
      if (dims && dim >= dims.length) return `the last dim of ${what} is ${dims.length - 1}`;
      if (of((f) => f.inputs[at]!.dim === dim).length === 0) return `dim ${dim} of ${what} must stay whole`;
    }
  }
  const closed = (dims ?? []).flatMap((size, dim) =>
    candidates.of(names[at]!, dim).length > 0 ? [] : [`dim ${dim} (of ${size})`]
  );
  return closed.length > 0
    ? `${closed.join(" and ")} of ${what} cannot be cut: too small, or inside of a unit such as a head or a block`
    : `no cut of ${what} over ${ranks} ranks fits the calls around it`;
}
