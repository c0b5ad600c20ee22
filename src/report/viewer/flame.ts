/// <reference lib="dom" />
/** A flame of where a step's time went: boxes as wide as their share, made of the boxes below. A box, clicked, fills the width. */
import type { Flame } from "../trace_view.ts";
import { el, timeText } from "./dom.ts";

/** The colour's class of each kind of time. */
export const KIND_CLASSES: Readonly<Record<Flame["kind"], string>> = {
  step: "role-step",
  compute: "role-column",
  waiting: "role-waiting",
  collective: "role-collective",
  other: "role-replicated",
};

/** Boxes of a smaller share have no room for a name. */
const THIN = 0.03;
/** Boxes of a smaller share are not drawn. */
const LEAST_SHARE = 0.0004;

/** The flame of one rank. */
export function flameChart(root: Flame): HTMLElement {
  const box = el("div", { class: "flame" });
  const show = (trail: readonly Flame[]) => {
    const top = trail.at(-1)!;
    box.replaceChildren();
    // What the box that fills the width lies in stays above it, as the way back.
    for (const outer of trail.slice(0, -1)) {
      box.append(rowOf([[outer, 0, 1]], root, (flame) => show(trail.slice(0, trail.indexOf(flame) + 1))));
    }
    let level: (readonly [Flame, number, number, readonly Flame[]])[] = [[top, 0, 1, trail]];
    while (level.length > 0) {
      const trails = new Map(level.map(([flame, , , way]) => [flame, way]));
      box.append(rowOf(level.map(([f, x, w]) => [f, x, w] as const), root, (flame) => show(trails.get(flame)!)));
      level = level.flatMap(([flame, x, width, way]) => {
        let at = x;
        return flame.parts.map((part) => {
          const own = width * part.ms / Math.max(1e-12, flame.ms), start = at;
          at += own;
          return [part, start, own, [...way, part]] as const;
        });
      }).filter(([, , width]) => width > LEAST_SHARE);
    }
  };
  show([root]);
  return box;
}

/** What tells a name from its neighbours': of modules the last part, of collectives the layer before them. */
function shortName(name: string): string {
  if (name.includes(" … ")) return name.split(" … ").map(shortName).join(" … ");
  const parts = name.split(/[/.]/).filter((part) => !/^MatMul$|^Gemm$|^Add$/.test(part));
  const [last = name, before] = parts.toReversed();
  return /^\d+$/.test(last) && before !== undefined ? `${before}.${last}` : last;
}

function rowOf(
  boxes: readonly (readonly [Flame, x: number, width: number])[],
  root: Flame,
  onClick: (flame: Flame) => void,
): HTMLElement {
  const row = el("div", { class: "flame-row" });
  for (const [flame, x, width] of boxes) {
    const text = `${flame.name}: ${timeText(flame.ms / 1e3)}, ${(100 * flame.ms / root.ms).toFixed(1)} %`;
    const button = el("button", {
      class: width < THIN ? `${KIND_CLASSES[flame.kind]} thin` : KIND_CLASSES[flame.kind],
      text: width < THIN ? "" : `${shortName(flame.name)} ${timeText(flame.ms / 1e3)}`,
      title: text,
      attributes: { type: "button", "aria-label": text, ...(width < 0.002 ? { tabindex: "-1" } : {}) },
      style: { left: `${x * 100}%`, width: `${width * 100}%` },
    });
    button.addEventListener("click", () => onClick(flame));
    row.append(button);
  }
  return row;
}
