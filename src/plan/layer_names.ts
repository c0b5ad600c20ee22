/** Layers by name: patterns with `*`, and near names where nothing matches. */
import { didYouMean } from "../core/suggest.ts";

/** What a layer is called. */
export interface Named {
  /** Of the node. */
  readonly name: string;
  /** The module that it came from. */
  readonly scope?: string | undefined;
}

/**
 * Whether `pattern` means this layer: its whole name or scope, or whole components of it. `*` stands for any characters;
 * `/` and `.` are the same. `h.*.mlp.fc` matches `transformer.h.3.mlp.fc` and `/transformer/h.3/mlp/fc/MatMul`.
 */
export function matchesLayer(pattern: string, { name, scope }: Named): boolean {
  if (pattern === "") return false;
  const source = dotted(pattern).split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&")).join(".*");
  const regexp = new RegExp(`(?:^|\\.)${source}(?:\\.|$)`);
  return regexp.test(dotted(name)) || (scope !== undefined && regexp.test(dotted(scope)));
}

/** `: did you mean "x"?` over names, scopes, their ends, and these with numbers as `*`; known names where nothing is near. */
export function nearLayers(pattern: string, layers: readonly Named[]): string {
  const whole = layers.flatMap(({ name, scope }) => (scope === undefined ? [name] : [name, scope]));
  const ends = whole.flatMap((text) => {
    const parts = dotted(text).replace(/^\./, "").split(".");
    return parts.map((_, i) => parts.slice(i).join("."));
  });
  const all = new Set([...whole, ...ends]);
  for (const text of [...all]) if (pattern.includes("*")) all.add(text.replace(/(?<=^|\.)\d+(?=\.|$)/g, "*"));
  const near = didYouMean(pattern, [...all]);
  return near.startsWith(": did you mean") ? near : didYouMean(pattern, layers.map((l) => l.scope || l.name));
}

function dotted(text: string): string {
  return text.replaceAll("/", ".");
}
