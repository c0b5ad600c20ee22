/**
 * Plans that people make by a rule, to compare the search with: what each layer becomes is given, all else is still chosen
 * and priced by the search.
 *
 * `megatron`: tables of words by rows, the first matrix product of a block by columns and the one behind it by rows, all
 * sums at once. `rowwise`, `columnwise`: every product by itself, its result made whole again. `replicated`: no split.
 */
import { type LayerKind, layerKind } from "./layer_kind.ts";
import type { Memo } from "./memo.ts";
import type { CallShape } from "./places.ts";
import type { Choices } from "./prune.ts";
import { type Candidate, LINEAR } from "./strategies.ts";

/** The names of the rules. */
export const BASELINES = ["megatron", "replicated", "rowwise", "columnwise"] as const;

/** A rule. */
export type Baseline = typeof BASELINES[number];

/** The strategies that a rule leaves to each call; where it leaves none, all but deferred sums stay. */
export function baselineStrategies(
  baseline: Baseline,
  choices: readonly Choices[],
  weights: Memo<CallShape, readonly number[]>,
): readonly (readonly Candidate[])[] {
  const kinds = wantedKinds(baseline, choices, weights);
  const lists = new Map<readonly Candidate[], Map<string, readonly Candidate[]>>();
  return choices.map(({ call, candidates }, i) => {
    const wanted = kinds[i]!, key = wanted?.join() ?? "";
    let known = lists.get(candidates);
    if (!known) lists.set(candidates, known = new Map());
    // Equal lists stay equal objects; what a strategy makes of a layer depends on its shape only through the weights.
    const [weight] = weights.of(call.shape), id = `${key};${weight ?? ""}`;
    let list = known.get(id);
    if (!list) {
      const prompt = candidates.filter((c) => c.name !== LINEAR);
      const matching = wanted ? prompt.filter((c) => wanted.includes(layerKind(c, weight))) : prompt;
      known.set(
        id,
        list = matching.length > 0 ? matching : prompt.filter((c) => layerKind(c, weight) === "replicated"),
      );
    }
    return list;
  });
}

/** What each call must become; undefined where it is free. */
function wantedKinds(
  baseline: Baseline,
  choices: readonly Choices[],
  weights: Memo<CallShape, readonly number[]>,
): (readonly LayerKind[] | undefined)[] {
  if (baseline === "replicated") return choices.map(() => ["replicated"]);
  const isMatrix = ({ call: { shape } }: Choices) => {
    const [weight] = weights.of(shape);
    return weight !== undefined && (shape.def?.flops !== undefined || shape.rule.factors.some((f) => f.selected));
  };
  if (baseline !== "megatron") {
    const kind = baseline === "rowwise" ? "row" : "column";
    return choices.map((c) => (isMatrix(c) ? kind === "row" ? ["row", "vocab"] : ["column"] : ["replicated"]));
  }
  const tables = choices.map((
    c,
  ) => (isMatrix(c) && c.call.shape.rule.factors.some((f) => f.selected) ? elements(c, weights) : 0));
  const largest = Math.max(0, ...tables);
  /** Values that are in parts behind a layer by columns. */
  const split = new Set<string>();
  return choices.map((choice, i) => {
    const { call: { node, shape }, candidates } = choice;
    const [weight] = weights.of(shape);
    const fed = node.inputs.some((name, k) => !shape.constant[k] && split.has(name));
    const can = (kind: LayerKind) => candidates.some((c) => layerKind(c, weight) === kind);
    const pass = () => node.outputs.forEach((name) => split.add(name));
    if (tables[i]! > 0) return [tables[i] === largest && can("vocab") ? "vocab" : "replicated"];
    if (isMatrix(choice)) {
      if (fed && can("row")) return ["row"];
      if (!can("column")) return ["replicated"];
      pass();
      return ["column"];
    }
    // A norm's scale, a bias: whole where the activations are, and cut with them where they are in parts.
    if (!fed) return ["replicated"];
    pass();
    return undefined;
  });
}

function elements({ call: { shape } }: Choices, weights: Memo<CallShape, readonly number[]>): number {
  const type = shape.context.inputs[weights.of(shape)[0]!];
  return (type?.shape ?? []).reduce<number>((n, d) => n * (typeof d === "number" ? d : 1), 1);
}
