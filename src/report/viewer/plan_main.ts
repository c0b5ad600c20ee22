/// <reference lib="dom" />
/** The page of a plan. */
import type { Leaf, PlanView, Role } from "../view_data.ts";
import { details } from "./details.ts";
import { bytesText, el, pageData, timeText } from "./dom.ts";
import { Timeline } from "./timeline.ts";
import { ROLE_NAMES, Tree, type TreeNode } from "./tree.ts";

const view = pageData<PlanView>();
const panel = el("section", { class: "details", attributes: { "aria-live": "polite", "aria-label": "Selected row" } });
const tree = new Tree(view.rows, (node) => {
  panel.replaceChildren(details(node));
  if (node.row.kind === "op") timeline.show(node.row.id);
});
const leafOf = (row: number) => tree.leaf(row)!.row as Leaf;
const timeline = new Timeline(view.timeline, {
  roleOf: (m) => leafOf(m.row).role,
  describe: (m) => {
    const leaf = leafOf(m.row), at = m.block === "" ? "" : `block ${m.block}: `;
    return m.collective
      ? `${at}${m.collective} at ${leaf.label}, ${bytesText(m.bytes!)}, ${timeText(m.seconds)}`
      : `${at}${leaf.label} (${leaf.op}), ${timeText(m.seconds)}`;
  },
  onSelect: (m) => tree.select(tree.leaf(m.row)!, false),
});

document.body.append(
  header(),
  el("section", { class: "strip", attributes: { "aria-label": "Timeline" } }, stripHead(), timeline.element),
  el(
    "main",
    {},
    el("section", { class: "layers" }, columns(), tree.element),
    el("aside", {}, memory(), panel),
  ),
);
panel.append(el("p", {
  class: "hint",
  text: "Choose a row: arrow keys move, → unfolds, ← folds, / searches.",
}));
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement?.tagName !== "INPUT") {
    event.preventDefault();
    document.querySelector<HTMLInputElement>("input[type=search]")!.focus();
  }
});

function header(): HTMLElement {
  const facts = el("dl", { class: "facts" });
  for (const [label, text] of view.outline) facts.append(el("dt", { text: label }), el("dd", { text }));
  const buttons = el("span", { class: "buttons" });
  for (const [text, open] of [["Unfold all", true], ["Fold all", false]] as const) {
    const button = el("button", { text, attributes: { type: "button" } });
    button.addEventListener("click", () => tree.toggleAll(open));
    buttons.append(button);
  }
  return el(
    "header",
    {},
    el(
      "div",
      { class: "titles" },
      el("h1", { text: `${view.title} on ${view.ranks} rank${view.ranks === 1 ? "" : "s"}` }),
      search(),
      buttons,
    ),
    facts,
    legend(),
  );
}

function legend(): HTMLElement {
  const seen = new Set<Role>();
  for (const node of tree.all()) if (node.row.kind === "op") seen.add(node.row.role);
  const box = el("div", { class: "legend", attributes: { "aria-label": "Colours" } });
  for (const role of Object.keys(ROLE_NAMES) as Role[]) {
    if (seen.has(role)) box.append(el("span", {}, el("i", { class: `role-${role}` }), ROLE_NAMES[role]));
  }
  if (view.memory.some((m) => m.states > 0)) {
    box.append(el("span", {}, el("i", { class: "role-states" }), "carried states (KV cache)"));
  }
  box.append(el("span", {}, el("i", { class: "role-collective" }), "collective"));
  return box;
}

function search(): HTMLElement {
  const input = el("input", {
    attributes: { type: "search", placeholder: "Search layers, ops, values ( / )", "aria-label": "Search" },
  });
  const count = el("span", { class: "count", attributes: { role: "status" } });
  let found: TreeNode[] = [], at = -1;
  const mark = () => {
    const query = input.value.trim().toLowerCase();
    for (const node of tree.all()) node.element?.classList.remove("hit");
    found = query === "" ? [] : [...tree.all()].filter((node) => matches(node, query));
    at = -1;
    count.textContent = query === "" ? "" : `${found.length} found`;
  };
  const go = (step: number) => {
    if (found.length === 0) return;
    at = (at + step + found.length) % found.length;
    tree.select(found[at]!, false);
    for (const node of found) node.element?.classList.add("hit");
    count.textContent = `${at + 1} of ${found.length}`;
  };
  input.addEventListener("input", () => {
    mark();
    go(1);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") go(event.shiftKey ? -1 : 1);
    else if (event.key === "ArrowDown" && found[at]) tree.select(found[at]!, true);
    else if (event.key === "Escape") {
      input.value = "";
      mark();
      input.blur();
    } else return;
    event.preventDefault();
  });
  return el("span", { class: "search" }, input, count);
}

function matches(node: TreeNode, query: string): boolean {
  for (const path of node.paths()) if (path.toLowerCase().includes(query)) return isOwn(node, query);
  const { row } = node;
  if (row.kind !== "op") return false;
  return [row.name, row.op, row.role, ...row.weights.map((w) => w.name), ...row.outputs.map(([name]) => name)]
    .some((text) => text.toLowerCase().includes(query));
}

/** Of rows whose paths all contain the query, only the outermost counts. */
function isOwn(node: TreeNode, query: string): boolean {
  if (!node.parent) return true;
  for (const path of node.parent.paths()) if (path.toLowerCase().includes(query)) return false;
  return true;
}

function columns(): HTMLElement {
  return el(
    "div",
    { class: "row columns", attributes: { "aria-hidden": "true" } },
    el("span", { class: "name", text: "module or op" }),
    el("span", { class: "what", text: "becomes" }),
    el("span", { class: "weights", text: "weights" }),
    el("span", { class: "memory", text: "bytes on a rank" }),
    el("span", { class: "time", text: "work" }),
    el("span", { class: "marks", text: "collectives" }),
  );
}

function stripHead(): HTMLElement {
  const sizes = Object.entries(view.sizes).map(([name, n]) => `${name} ${n}`).join(", ");
  const work = view.timeline.reduce((s, m) => s + (m.collective ? 0 : m.seconds), 0);
  const tokens = view.tokens === 1 ? "one token" : `${view.tokens} tokens`;
  return el(
    "h2",
    { text: `A step of ${tokens}, estimated: ${timeText(timeline.total)}` },
    el("small", {
      text: ` ${timeText(work)} of work on the slowest rank, ${timeText(timeline.total - work)} of collectives${
        sizes === "" ? "" : `; at ${sizes}`
      }`,
    }),
  );
}

function memory(): HTMLElement {
  const sums = view.memory.map((m) => Object.values(m.weights).reduce((a, b) => a + b, m.states));
  const most = Math.max(view.weightBytes, ...sums);
  const box = el("section", { class: "ranks", attributes: { "aria-label": "Memory by rank" } });
  box.append(el("h2", { text: "Memory by rank" }));
  const bars = el("div", { class: "bars" });
  view.memory.forEach((rank, r) => {
    const bar = el("span", { class: "stack" });
    for (const role of Object.keys(ROLE_NAMES) as Role[]) {
      const n = rank.weights[role] ?? 0;
      if (n > 0) {
        bar.append(el("span", {
          class: `role-${role}`,
          title: `${ROLE_NAMES[role]}: ${bytesText(n)}`,
          style: { width: `${n / most * 100}%` },
        }));
      }
    }
    if (rank.states > 0) {
      bar.append(el("span", {
        class: "role-states",
        title: `carried states: ${bytesText(rank.states)}`,
        style: { width: `${rank.states / most * 100}%` },
      }));
    }
    const weights = sums[r]! - rank.states;
    const text = `${bytesText(weights)}${rank.states > 0 ? ` + ${bytesText(rank.states)} states` : ""}`;
    bars.append(el("span", { text: `rank ${r}` }), bar, el("span", { class: "number", text }));
  });
  box.append(
    bars,
    el("p", {
      class: "hint",
      text: `Weights by what became of their layers; a full bar is ${bytesText(most)}${
        most === view.weightBytes ? ", the whole model" : ""
      }.`,
    }),
  );
  return box;
}
