/// <reference lib="dom" />
/** The page of a trace. */
import type { Flame, TraceView } from "../trace_view.ts";
import { el, pageData, timeText } from "./dom.ts";
import { flameChart, KIND_CLASSES } from "./flame.ts";
import { Lanes } from "./lanes.ts";

const view = pageData<TraceView>();
const flame = el("div");
const KINDS = ["compute", "waiting", "collective", "other"] as const;

document.body.classList.add("trace");
document.body.append(
  el("header", {}, el("h1", { text: view.title }), summary(), legend()),
  el("section", { class: "strip" }, el("h2", { text: "Timeline" }), new Lanes(view).element),
  el("section", { class: "strip" }, flameHead(), flame),
);
show(0);

function kindName(kind: Flame["kind"]): string {
  return kind === "other" ? "between the parts" : kind;
}

function msOf(rank: Flame, kind: Flame["kind"]): number {
  return rank.parts.reduce((ms, p) => ms + (p.kind === kind ? p.ms : 0), 0);
}

function summary(): HTMLElement {
  const [from, steps] = view.counted;
  const head = el("tr", {}, ...["rank", "a step", ...KINDS.map(kindName)].map((text) => el("th", { text })));
  const rows = view.flames.map((rank, r) =>
    el(
      "tr",
      {},
      el("td", { text: String(r) }),
      el("td", { text: timeText(rank.ms / 1e3) }),
      ...KINDS.map((kind) => {
        const ms = msOf(rank, kind);
        return el("td", { text: `${timeText(ms / 1e3)} (${Math.round(100 * ms / Math.max(1e-12, rank.ms))} %)` });
      }),
    )
  );
  const which = from === 0 ? `${steps} step` : `${steps - from} steps after the first`;
  return el(
    "div",
    { class: "scroll" },
    el("table", { class: "numbers" }, el("thead", {}, head), el("tbody", {}, ...rows)),
    el("p", {
      class: "hint",
      text:
        `Means of ${which}. Clocks agree to ${
          timeText(view.clockError / 1e3)
        }. A collective's time is that from the arrival of the ` +
        "last rank on; what it adds or joins is computed by the part that follows.",
    }),
  );
}

function legend(): HTMLElement {
  return el(
    "div",
    { class: "legend" },
    ...KINDS.map((kind) => el("span", {}, el("i", { class: KIND_CLASSES[kind] }), kindName(kind))),
  );
}

function flameHead(): HTMLElement {
  const select = el("select", { attributes: { "aria-label": "Rank" } });
  view.flames.forEach((_, r) => select.append(el("option", { text: `rank ${r}`, attributes: { value: String(r) } })));
  select.addEventListener("change", () => show(Number(select.value)));
  const hint = el("small", { text: " a box, clicked or entered, fills the width; those above it lead back" });
  return el("h2", { text: "Where the time of a step went " }, select, hint);
}

function show(rank: number): void {
  flame.replaceChildren(flameChart(view.flames[rank]!));
}
