/** What users ask of single layers, by patterns of their names. */
import { PlanError } from "../core/errors.ts";
import { didYouMean } from "../core/suggest.ts";
import { type LayerKind, layerKind } from "./layer_kind.ts";
import { matchesLayer, type Named, nearLayers } from "./layer_names.ts";
import type { Candidate } from "./strategies.ts";

/**
 * What a layer can be asked to be: a kind, or a placement of its largest weight (of its first input, where it has none).
 * `S(1)` takes any cut of dim 1.
 */
export type Override = "column" | "row" | "vocab" | "replicated" | "R" | "P(sum)" | `S(${number})`;

/**
 * Wishes by pattern of a layer's node name or scope; `*` stands for any characters, and whole components are enough:
 * `{ "h.*.mlp.fc": "column" }`. The last match wins.
 */
export type Overrides = Readonly<Record<string, Override>>;

const KINDS: readonly string[] = ["column", "row", "vocab", "replicated"];

/** A layer as overrides know it. */
export interface OverridableLayer extends Named {
  /** Whether it does the work of its module; the bias that is added behind a product does not. */
  readonly heavy: boolean;
  /** What it can be, by kind, each once. */
  readonly kinds: readonly LayerKind[];
  /** Whether some strategy of the layer is as wished. */
  readonly allows: (wish: Override) => boolean;
  /** Why no strategy is as wished. */
  readonly whyNot: (wish: Override) => string;
}

/** Whether a strategy is what a wish asks for; `weight` is the position of the layer's largest weight. */
export function grants(candidate: Candidate, wish: Override, weight: number | undefined): boolean {
  if (KINDS.includes(wish)) return layerKind(candidate, weight) === wish;
  const p = candidate.inputs[weight ?? 0];
  if (p === undefined) return false;
  return wish === (p.kind === "S" ? `S(${p.dim})` : p.kind === "P" ? `P(${p.reduction})` : "R");
}

/**
 * The wish for each layer, by node name.
 *
 * @throws {PlanError} If a pattern matches no layer, a wish is unknown, or a layer has no such strategy.
 */
export function resolveOverrides(overrides: Overrides, layers: readonly OverridableLayer[]): Map<string, Override> {
  const wishes = new Map<string, Override>();
  for (const [pattern, wish] of Object.entries(overrides)) {
    if (!isOverride(wish)) {
      throw new PlanError(`Cannot make "${pattern}" ${JSON.stringify(wish)}${didYouMean(String(wish), KINDS)}`, {
        hint: `use one of ${KINDS.join(", ")}, or a placement of its weight: R, P(sum), S(0), S(1), …`,
      });
    }
    for (const layer of meantLayers(pattern, layers)) {
      if (!layer.allows(wish)) {
        throw new PlanError(
          `Cannot make layer "${layer.name}" ${wish}: ${layer.whyNot(wish)}; it can be ${layer.kinds.join(", ")}`,
          { hint: `narrow the pattern "${pattern}", or ask for something else` },
        );
      }
      wishes.set(layer.name, wish);
    }
  }
  return wishes;
}

/** Whether a text is a wish. */
export function isOverride(text: unknown): text is Override {
  return typeof text === "string" && (KINDS.includes(text) || /^(R|P\(sum\)|S\(\d+\))$/.test(text));
}

/**
 * The layers that a pattern means. Of those of one module it is the ones that do its work, unless there are none, or one is
 * named exactly.
 *
 * @throws {PlanError} If it matches none.
 */
export function meantLayers<T extends Named & { readonly heavy: boolean }>(pattern: string, layers: readonly T[]): T[] {
  const matched = layers.filter((l) => matchesLayer(pattern, l));
  if (matched.length === 0) throw unmatchedPattern(pattern, layers);
  const working = new Set(matched.flatMap((l) => (l.heavy && l.scope !== undefined ? [l.scope] : [])));
  return matched.filter((l) => l.heavy || l.name === pattern || l.scope === undefined || !working.has(l.scope));
}

/** That a pattern means none of `layers`, with the names that are near it. */
export function unmatchedPattern(pattern: string, layers: readonly Named[]): PlanError {
  return new PlanError(`No layer matches "${pattern}"${nearLayers(pattern, layers)}`, {
    hint: "use the name of a layer or module as the plan prints it, with * for any characters",
  });
}
