/// <reference lib="dom" />
/**
 * The model as a tree of rows that fold and unfold. Rows are made when they are first shown; only what is unfolded is in the
 * page. Keys are those of the ARIA tree pattern: arrows, Home, End, Enter; one row at a time takes the focus.
 */
import type { Group, Leaf, Mark, Role, Row } from "../view_data.ts";
import { bytesText, countText, el, timeText } from "./dom.ts";

/** What roles are called. */
export const ROLE_NAMES: Readonly<Record<Role, string>> = {
  column: "column-parallel",
  row: "row-parallel",
  vocab: "vocab-parallel",
  data: "split by input",
  partial: "partial sums",
  replicated: "replicated",
};

/** Sums over everything in a row. */
export interface Totals {
  readonly seconds: number;
  readonly bytes: number;
  readonly bytesPerRank: number;
  readonly marks: readonly (Mark & { readonly times: number })[];
  readonly roles: ReadonlyMap<Role, number>;
  readonly ops: number;
}

/** A row with its place in the tree. */
export class TreeNode {
  readonly children: readonly TreeNode[];
  readonly totals: Totals;
  expanded = false;
  element: HTMLElement | undefined;
  #childBox: HTMLElement | undefined;

  constructor(readonly row: Row, readonly parent: TreeNode | undefined, readonly depth: number) {
    this.children = row.kind === "group" ? row.rows.map((r) => new TreeNode(r, this, depth + 1)) : [];
    this.totals = row.kind === "op" ? leafTotals(row) : groupTotals(row, this.children);
  }

  get times(): number {
    return this.row.kind === "group" ? this.row.names.length : 1;
  }

  /** Full paths of the module: one for each of the blocks that the row stands for. */
  *paths(): Iterable<string> {
    const fold = this.parents().concat(this).find((n) => n.times > 1);
    const names = fold?.row.kind === "group" ? fold.row.names : [""];
    for (const name of names) {
      yield this.parents().concat(this).map((n) => (n === fold ? blockPath(n.row.label, name) : n.row.label)).join(".");
    }
  }

  /** From the outside in. */
  parents(): TreeNode[] {
    return this.parent ? [...this.parent.parents(), this.parent] : [];
  }

  childBox(): HTMLElement {
    return this.#childBox ??= el("div", { attributes: { role: "group" } });
  }
}

/** `layers.0 … 11` for block 4 is `layers.4`. */
function blockPath(label: string, name: string): string {
  return label.replace(/[^.]* … .*$/, name);
}

/** The tree on the page. */
export class Tree {
  readonly element: HTMLElement;
  readonly roots: readonly TreeNode[];
  readonly #byId = new Map<number, TreeNode>();
  readonly #onSelect: (node: TreeNode) => void;
  readonly #most: number;
  #selected: TreeNode | undefined;

  constructor(rows: readonly Row[], onSelect: (node: TreeNode) => void) {
    this.#onSelect = onSelect;
    this.roots = rows.map((row) => new TreeNode(row, undefined, 0));
    this.#most = Math.max(1e-12, ...this.roots.map((n) => n.totals.seconds));
    for (const node of this.all()) if (node.row.kind === "op") this.#byId.set(node.row.id, node);
    this.element = el("div", { class: "tree", attributes: { role: "tree", "aria-label": "Layers of the model" } });
    this.element.append(...this.roots.map((node) => this.#make(node)));
    this.element.addEventListener("keydown", (event) => this.#key(event));
    this.#openAtStart();
    const first = this.roots[0];
    if (first) first.element!.tabIndex = 0;
  }

  /** All rows, in order, shown or not. */
  *all(nodes: readonly TreeNode[] = this.roots): Iterable<TreeNode> {
    for (const node of nodes) {
      yield node;
      yield* this.all(node.children);
    }
  }

  /** The row of a call. */
  leaf(id: number): TreeNode | undefined {
    return this.#byId.get(id);
  }

  /** Shows a row, unfolding what it lies in. */
  select(node: TreeNode, focus: boolean): void {
    for (const parent of node.parents()) this.toggle(parent, true);
    this.#selected?.element?.setAttribute("aria-selected", "false");
    if (this.#selected?.element) this.#selected.element.tabIndex = -1;
    for (const root of this.roots) root.element!.tabIndex = -1;
    this.#selected = node;
    node.element!.setAttribute("aria-selected", "true");
    node.element!.tabIndex = 0;
    if (focus) node.element!.focus({ preventScroll: true });
    node.element!.scrollIntoView({ block: "nearest" });
    this.#onSelect(node);
  }

  /** Folds or unfolds a row. */
  toggle(node: TreeNode, open = !node.expanded): void {
    if (node.children.length === 0 || node.expanded === open) return;
    node.expanded = open;
    node.element!.setAttribute("aria-expanded", String(open));
    const box = node.childBox();
    if (!open) return box.remove();
    if (box.childElementCount === 0) box.append(...node.children.map((child) => this.#make(child)));
    node.element!.after(box);
  }

  /** Folds or unfolds everything. */
  toggleAll(open: boolean): void {
    for (const node of [...this.all()]) if (!open || node.parents().every((p) => p.expanded)) this.toggle(node, open);
  }

  /** Unfolds from the outside in as long as the rows fit on a screen. */
  #openAtStart(): void {
    let level: readonly TreeNode[] = this.roots, rows = this.roots.length;
    while (level.length > 0) {
      const next: TreeNode[] = [];
      for (const node of level) {
        if (node.totals.roles.size === 0 || rows + node.children.length > 36) continue;
        this.toggle(node, true);
        rows += node.children.length;
        next.push(...node.children);
      }
      level = next;
    }
  }

  #make(node: TreeNode): HTMLElement {
    const { row, totals } = node;
    const isGroup = row.kind === "group";
    const name = el(
      "span",
      { class: "name", style: { "--depth": String(node.depth) } },
      el("span", { class: "twisty", attributes: { "aria-hidden": "true" } }),
      swatch(totals),
      el("span", { class: totals.roles.size > 0 ? "label strong" : "label", text: row.label, title: row.label }),
    );
    if (node.times > 1) name.append(el("span", { class: "times", text: `× ${node.times}` }));
    const share = totals.bytes > 0 ? totals.bytesPerRank / totals.bytes : 0;
    const element = el(
      "div",
      {
        class: `row ${isGroup ? "group" : "op"}`,
        attributes: {
          role: "treeitem",
          "aria-level": String(node.depth + 1),
          "aria-selected": "false",
          ...(isGroup ? { "aria-expanded": "false" } : {}),
        },
      },
      name,
      el("span", { class: "what", text: whatText(node) }),
      el("span", { class: "weights", text: isGroup ? "" : row.weights.map((w) => w.placement).join(" ") }),
      totals.bytes === 0 ? el("span", { class: "memory" }) : el(
        "span",
        { class: "memory", title: `${bytesText(totals.bytesPerRank)} on a rank of ${bytesText(totals.bytes)}` },
        el("span", { class: "bar" }, el("span", { class: "fill", style: { width: `${share * 100}%` } })),
        el("span", { text: bytesText(totals.bytesPerRank) }),
      ),
      el(
        "span",
        { class: "time", title: `${timeText(totals.seconds)} of work on the slowest rank, estimated` },
        el(
          "span",
          { class: "bar" },
          el("span", { class: "fill", style: { width: `${totals.seconds / this.#most * 100}%` } }),
        ),
        el("span", { text: timeText(totals.seconds) }),
      ),
      el("span", { class: "marks" }, ...marksOf(totals)),
    );
    element.tabIndex = -1;
    element.addEventListener("click", () => {
      this.select(node, true);
      this.toggle(node);
    });
    node.element = element;
    return element;
  }

  #key(event: KeyboardEvent): void {
    const node = this.#selected ?? this.roots[0];
    if (!node || event.ctrlKey || event.metaKey || event.altKey) return;
    const visible = [...this.#visible(this.roots)];
    const at = visible.indexOf(node);
    const go = (to: TreeNode | undefined) => to && this.select(to, true);
    switch (event.key) {
      case "ArrowDown":
        go(this.#selected ? visible[at + 1] : node);
        break;
      case "ArrowUp":
        go(visible[at - 1]);
        break;
      case "ArrowRight":
        if (node.children.length > 0 && !node.expanded) this.toggle(node, true);
        else go(node.children[0]);
        break;
      case "ArrowLeft":
        if (node.expanded) this.toggle(node, false);
        else go(node.parent);
        break;
      case "Home":
        go(visible[0]);
        break;
      case "End":
        go(visible.at(-1));
        break;
      case "Enter":
      case " ":
        this.select(node, true);
        this.toggle(node);
        break;
      default:
        return;
    }
    event.preventDefault();
  }

  *#visible(nodes: readonly TreeNode[]): Iterable<TreeNode> {
    for (const node of nodes) {
      yield node;
      if (node.expanded) yield* this.#visible(node.children);
    }
  }
}

function leafTotals(leaf: Leaf): Totals {
  const sum = (of: (w: Leaf["weights"][number]) => number) => leaf.weights.reduce((n, w) => n + of(w), 0);
  return {
    seconds: leaf.seconds,
    bytes: sum((w) => w.bytes),
    bytesPerRank: sum((w) => w.bytesPerRank),
    marks: leaf.marks.map((m) => ({ ...m, times: 1 })),
    roles: leaf.layer ? new Map([[leaf.role, 1]]) : new Map(),
    ops: 1,
  };
}

function groupTotals({ names }: Group, children: readonly TreeNode[]): Totals {
  const n = names.length;
  const sum = (of: (t: Totals) => number) => n * children.reduce((s, c) => s + of(c.totals), 0);
  const roles = new Map<Role, number>();
  for (const { totals } of children) {
    for (const [role, count] of totals.roles) roles.set(role, (roles.get(role) ?? 0) + n * count);
  }
  return {
    seconds: sum((t) => t.seconds),
    bytes: sum((t) => t.bytes),
    bytesPerRank: sum((t) => t.bytesPerRank),
    marks: children.flatMap((c) => c.totals.marks.map((m) => ({ ...m, times: m.times * n }))),
    roles,
    ops: sum((t) => t.ops),
  };
}

/** The colours of the roles in a row, by how many layers have them. */
function swatch({ roles }: Totals): HTMLElement {
  const box = el("span", { class: "swatch", attributes: { "aria-hidden": "true" } });
  for (const [role, n] of roles) {
    box.append(el("span", { class: `role-${role}`, style: { "flex-grow": String(n) } }));
  }
  return box;
}

function whatText({ row, totals }: TreeNode): string {
  if (row.kind === "op") return row.layer ? ROLE_NAMES[row.role] : row.outputs.map(([, p]) => p).join(" ");
  const layers = [...totals.roles.values()].reduce((a, b) => a + b, 0);
  return layers > 0 ? countText(layers, "layer") : countText(totals.ops, "op");
}

/** One mark for the collectives of a row; of several kinds, the sum of them all. */
function marksOf({ marks }: Totals): HTMLElement[] {
  if (marks.length === 0) return [];
  const sums = [...Map.groupBy(marks, (m) => m.kind)].map(([kind, list]) => ({
    kind,
    n: list.reduce((s, m) => s + m.times, 0),
    bytes: list.reduce((s, m) => s + m.times * m.bytes, 0),
    seconds: list.reduce((s, m) => s + m.times * m.seconds, 0),
  }));
  const all = (of: (sum: typeof sums[number]) => number) => sums.reduce((s, sum) => s + of(sum), 0);
  const n = all((s) => s.n), [{ kind }] = sums as [typeof sums[number]];
  const what = sums.length > 1 ? "collectives" : kind;
  return [el(
    "span",
    {
      class: "mark",
      title: sums.map((s) => `${s.n} × ${s.kind}: ${bytesText(s.bytes)} a step, ${timeText(s.seconds)}`).join("\n"),
    },
    el("span", { class: "kind", text: n > 1 ? `${n} ${what}` : what }),
    ` ${bytesText(all((s) => s.bytes))} · ${timeText(all((s) => s.seconds))}`,
  )];
}
