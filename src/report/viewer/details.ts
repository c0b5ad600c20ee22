/// <reference lib="dom" />
/** What is known of the selected row. */
import type { Leaf } from "../view_data.ts";
import { bytesText, el, timeText } from "./dom.ts";
import { ROLE_NAMES, type TreeNode } from "./tree.ts";

/** The panel's content for `node`. */
export function details(node: TreeNode): HTMLElement {
  const { row, totals } = node;
  const [path] = node.paths();
  const last = [...node.paths()].at(-1);
  const head = el("h2", { text: path === last ? path! : `${path} … ${last}` });
  const facts: (readonly [string, string])[] = row.kind === "op" ? opFacts(row) : [
    ["what", node.times > 1 ? `${node.times} equal blocks` : "module"],
    ["layers", [...totals.roles].map(([role, n]) => `${n} ${ROLE_NAMES[role]}`).join(", ") || "none"],
    ["ops", String(totals.ops)],
  ];
  if (totals.bytes > 0) {
    facts.push(["weights", `${bytesText(totals.bytesPerRank)} on a rank of ${bytesText(totals.bytes)}`]);
  }
  facts.push(["work", `${timeText(totals.seconds)} a step on the slowest rank`]);
  const moved = totals.marks.reduce((s, m) => s + m.times * m.bytes, 0);
  const waited = totals.marks.reduce((s, m) => s + m.times * m.seconds, 0);
  const n = totals.marks.reduce((s, m) => s + m.times, 0);
  facts.push(["collectives", n === 0 ? "none" : `${n}, ${bytesText(moved)} and ${timeText(waited)} a step`]);
  const panel = el("div", {}, head, table(facts));
  if (row.kind === "op") panel.append(...opTables(row));
  return panel;
}

function opFacts(leaf: Leaf): (readonly [string, string])[] {
  const facts: (readonly [string, string])[] = [["op", leaf.op], ["node", leaf.name]];
  if (leaf.layer) facts.push(["becomes", ROLE_NAMES[leaf.role]]);
  if (leaf.price !== null) {
    facts.push(["not splitting it", `${timeText(Math.max(0, leaf.price))} more, memory priced in`]);
  }
  return facts;
}

function opTables(leaf: Leaf): HTMLElement[] {
  const weights = new Map(leaf.weights.map((w) => [w.name, w]));
  const values = [
    ...leaf.inputs.map(([name, p]) => ["reads", name, p] as const),
    ...leaf.outputs.map(([name, p]) => ["writes", name, p] as const),
  ];
  return [
    el("h3", { text: "Placements" }),
    grid(
      ["", "value", "placement", ""],
      values.map(([how, name, p]) => {
        const w = weights.get(name);
        return [how, name, p, w ? `${bytesText(w.bytesPerRank)} of ${bytesText(w.bytes)}` : ""];
      }),
    ),
    ...(leaf.marks.length === 0 ? [] : [
      el("h3", { text: "Collectives" }),
      grid(
        ["", "collective", "value", "a step"],
        leaf.marks.map((
          m,
        ) => [m.before ? "before" : "after", m.kind, m.value, `${bytesText(m.bytes)}, ${timeText(m.seconds)}`]),
      ),
    ]),
  ];
}

function table(facts: readonly (readonly [string, string])[]): HTMLElement {
  const list = el("dl");
  for (const [term, text] of facts) list.append(el("dt", { text: term }), el("dd", { text }));
  return list;
}

function grid(head: readonly string[], rows: readonly (readonly string[])[]): HTMLElement {
  return el(
    "div",
    { class: "scroll" },
    el(
      "table",
      {},
      el("thead", {}, el("tr", {}, ...head.map((text) => el("th", { text })))),
      el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((text) => el("td", { text, title: text }))))),
    ),
  );
}
