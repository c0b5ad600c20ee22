/**
 * Calls as a tree of the modules that they come from, in order of execution, with equal neighbours folded into one row: 80
 * equal blocks make the data and the screen no larger than one.
 */
import type { Group, Leaf, Row } from "./view_data.ts";

/** A call and its module path (`model.layers.0.mlp`). */
export interface ScopedLeaf {
  readonly leaf: Omit<Leaf, "id">;
  readonly scope: string | undefined;
}

/** The row of a call. */
export interface Place {
  readonly id: number;
  /** Names of the folded blocks that it lies in, from the outside in, with dots; empty outside of such. */
  readonly block: string;
}

/** The tree, and for each call, in the order given, its row in it. */
export function layerTree(calls: readonly ScopedLeaf[]): { readonly rows: Row[]; readonly places: Place[] } {
  const root = new Module("");
  calls.forEach(({ leaf, scope }, index) => {
    let at = root;
    for (const part of scope === undefined || scope === "" ? [] : scope.split(".")) at = at.module(part);
    at.members.push({ leaf, index });
  });
  const places: Place[] = [];
  const folder = new Folder(places);
  const rows = folder.rows(fold(root), []);
  return { rows, places };
}

interface Member {
  readonly leaf: Omit<Leaf, "id">;
  readonly index: number;
}

/** Fewer plain ops in a row stay rows of their own. */
const LEAST_PLAIN_OPS = 4;

/** A module under construction. */
class Module {
  readonly members: (Member | Module)[] = [];
  readonly #modules = new Map<string, Module>();

  constructor(readonly name: string) {}

  module(name: string): Module {
    let module = this.#modules.get(name);
    if (!module) {
      this.#modules.set(name, module = new Module(name));
      this.members.push(module);
    }
    return module;
  }
}

/** A module whose equal neighbours have been found: rows, or runs of equal blocks. */
interface Folded {
  readonly name: string;
  readonly members: readonly (Member | { readonly run: readonly Folded[] })[];
  /** Equal for blocks that differ in names only. */
  readonly signature: string;
}

function fold(module: Module): Folded {
  const members: (Member | { run: Folded[] })[] = [];
  for (const member of module.members) {
    if (!(member instanceof Module)) {
      members.push(member);
      continue;
    }
    const folded = fold(member), last = members.at(-1);
    const alike = last && "run" in last && last.run[0]!.signature === folded.signature &&
      shapeOf(last.run[0]!.name) === shapeOf(folded.name);
    if (alike) last.run.push(folded);
    else members.push({ run: [folded] });
  }
  const signature = members.map((m) =>
    "run" in m ? `${m.run.map((f) => shapeOf(f.name)).join(",")}(${m.run[0]!.signature})` : signatureOf(m.leaf)
  ).join(";");
  return { name: module.name, members, signature };
}

function shapeOf(name: string): string {
  return name.replace(/\d+/g, "#");
}

function signatureOf({ op, role, layer, inputs, outputs, weights, seconds, marks }: Omit<Leaf, "id">): string {
  return JSON.stringify([
    op,
    role,
    layer,
    inputs.map(([, p]) => p),
    outputs.map(([, p]) => p),
    weights.map((w) => [w.placement, w.bytes]),
    seconds,
    marks.map((m) => [m.kind, m.before, m.bytes]),
  ]);
}

/** Numbers the rows and writes down where every call has gone. */
class Folder {
  #next = 0;

  constructor(readonly places: Place[]) {}

  rows(folded: Folded, blocks: readonly string[]): Row[] {
    const rows = folded.members.map((member): Row =>
      "run" in member ? this.#group(member.run, blocks) : this.#leaf(member, blocks)
    );
    // The rows of modules that are one op keep their names.
    const plain = (i: number) => {
      const row = rows[i];
      return row?.kind === "op" && !row.layer && row.marks.length === 0 && !("run" in folded.members[i]!);
    };
    return folded.members.some((m) => "run" in m || m.leaf.layer) ? foldPlainOps(rows, plain) : rows;
  }

  #leaf({ leaf, index }: Member, blocks: readonly string[]): Leaf {
    const id = this.#next++;
    this.places[index] = { id, block: blocks.join(".") };
    return { ...leaf, id };
  }

  #group(run: readonly Folded[], blocks: readonly string[]): Row {
    const [first] = run as [Folded];
    // A numbered module is a block by itself where its neighbours differ.
    const inside = (f: Folded) => (run.length > 1 || /^\d+$/.test(f.name) ? [...blocks, f.name] : blocks);
    const start = this.#next;
    const rows = this.rows(first, inside(first));
    // The other blocks are alike, so their calls have the same rows in the same order.
    for (const other of run.slice(1)) {
      const end = this.#next;
      this.#next = start;
      this.rows(other, inside(other));
      this.#next = end;
    }
    const names = run.map((f) => f.name);
    const [only] = rows;
    if (names.length === 1 && rows.length === 1) {
      // A module of one op is that op, and a module of one module is both.
      if (only!.kind === "op") return { ...only!, label: names[0]! };
      return { ...only!, label: `${names[0]}.${only!.label}` };
    }
    return { kind: "group", label: labelOf(names), names, rows } satisfies Group;
  }
}

/** Ops without weights or collectives that stand in a row beside modules become one row: shape arithmetic, masks. */
function foldPlainOps(rows: readonly Row[], plain: (index: number) => boolean): Row[] {
  const out: Row[] = [];
  for (let i = 0; i < rows.length;) {
    let j = i;
    while (plain(j)) j++;
    if (j - i < LEAST_PLAIN_OPS) {
      out.push(...rows.slice(i, Math.max(j, i + 1)));
      i = Math.max(j, i + 1);
      continue;
    }
    const run = rows.slice(i, j);
    const ops = [...new Set(run.map((row) => row.label))];
    const label = `${run.length} ops: ${ops.slice(0, 3).join(", ")}${ops.length > 3 ? ", …" : ""}`;
    out.push({ kind: "group", label, names: [label], rows: run });
    i = j;
  }
  return out;
}

function labelOf(names: readonly string[]): string {
  const [first] = names as [string];
  return names.length === 1 ? first : `${first} … ${names.at(-1)}`;
}
