/** What users ask of single layers, by patterns of their names. */
import { PlanError } from "../core/errors.ts";
import { didYouMean } from "../core/suggest.ts";
import type { LayerKind } from "./layer_kind.ts";

/** What a layer can be asked to be. */
export type Override = "column" | "row" | "vocab" | "replicated";

/** Wishes by pattern of a layer's node name or scope; `*` stands for any characters. The last match wins. */
export type Overrides = Readonly<Record<string, Override>>;

const KINDS: readonly string[] = ["column", "row", "vocab", "replicated"];

/** A layer as overrides know it. */
export interface OverridableLayer {
  readonly name: string;
  readonly scope: string | undefined;
  /** What its strategies make of it, each once. */
  readonly kinds: readonly LayerKind[];
}

/**
 * The wish for each layer, by node name.
 *
 * @throws {PlanError} If a pattern matches no layer, a wish is unknown, or a layer has no such strategy.
 */
export function resolveOverrides(overrides: Overrides, layers: readonly OverridableLayer[]): Map<string, Override> {
  const wishes = new Map<string, Override>();
  for (const [pattern, wish] of Object.entries(overrides)) {
    if (!KINDS.includes(wish)) {
      throw new PlanError(`Cannot make "${pattern}" ${JSON.stringify(wish)}${didYouMean(String(wish), KINDS)}`, {
        hint: `use one of ${KINDS.join(", ")}`,
      });
    }
    const matched = layers.filter((l) =>
      matches(pattern, l.name) || (l.scope !== undefined && matches(pattern, l.scope))
    );
    if (matched.length === 0) {
      throw new PlanError(`No layer matches "${pattern}"${didYouMean(pattern, layers.map((l) => l.name))}`, {
        hint: "use the name of a layer as the plan prints it, with * for any characters",
      });
    }
    for (const layer of matched) {
      if (!layer.kinds.includes(wish)) {
        throw new PlanError(`Cannot make layer "${layer.name}" ${wish}: it can be ${layer.kinds.join(", ")}`, {
          hint: `narrow the pattern "${pattern}", or ask for something else`,
        });
      }
      wishes.set(layer.name, wish);
    }
  }
  return wishes;
}

function matches(pattern: string, name: string): boolean {
  const source = pattern.split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&")).join(".*");
  return new RegExp(`^${source}$`).test(name);
}
