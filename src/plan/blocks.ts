/**
 * Finding the equal blocks of a model.
 *
 * Calls are compared by what they do (op, attributes, types and small contents of constants); a period is how far apart the
 * calls lie that do the same once a block. Along the longest run in which each call reads what the call one period before
 * reads, one block further, windows of one period are blocks, wherever they begin. Nothing is known of names.
 */
import { dimEquals } from "../core/dim.ts";
import {
  type Attributes,
  type Call,
  type Graph,
  isCall,
  opKey,
  type TensorData,
  type Value,
  valueOf,
} from "../graph/graph.ts";

/** The equal blocks of a graph. */
export interface Blocks {
  /** All calls of the graph, in order. */
  readonly calls: readonly Call[];
  /** Number of the first call of the first block. */
  readonly start: number;
  /** Calls of a block. */
  readonly period: number;
  /** How many blocks there are. */
  readonly blocks: number;
  /** By name of a call in a block: which, and in which block. */
  readonly nodes: ReadonlyMap<string, BlockPlace>;
  /** The same for values, those of constants and inputs that each block has its own of included. */
  readonly values: ReadonlyMap<string, BlockPlace>;
  /** Names by number, then by block. */
  readonly names: readonly (readonly string[])[];
}

/** What a name is in its block. */
export interface BlockPlace {
  /** Equal things have equal numbers. */
  readonly id: number;
  readonly block: number;
}

/** Contents of so many elements are compared; of more, only their types. */
const COMPARED_ELEMENTS = 16;

/** The equal blocks of `graph`; undefined where there are not at least `least`, or they do not fit together. */
export function findBlocks(graph: Graph<"global">, least: number): Blocks | undefined {
  const calls = graph.nodes.filter(isCall);
  if (calls.length < least * 2) return undefined;
  const signatures = new Signatures(graph), kinds = calls.map((c) => signatures.of(c));
  const period = periodOf(kinds, least);
  const run = period === undefined ? undefined : longestRun(graph, { calls, kinds, period });
  return run && run.blocks >= least ? nameBlocks(calls, run) : undefined;
}

/** Numbers what a block has, by the chains that lead from block to block. */
function nameBlocks(calls: readonly Call[], { start, period, blocks, next }: Run): Blocks | undefined {
  const nodes = new Map<string, BlockPlace>(), values = new Map<string, BlockPlace>(), names: string[][] = [];
  const made = new Set(calls.flatMap((c) => c.outputs));
  const chain = (first: string) => {
    if (first === "" || values.has(first)) return;
    const id = names.length, list: string[] = [];
    for (let name: string | undefined = first, b = 0; name !== undefined && b < blocks; b++) {
      list.push(name);
      values.set(name, { id, block: b });
      name = next.get(name);
    }
    names.push(list);
  };
  for (let i = start; i < start + period; i++) {
    const { inputs, outputs } = calls[i]!;
    const list = Array.from({ length: blocks }, (_, b) => calls[i + b * period]!.name), id = names.push(list) - 1;
    list.forEach((name, block) => nodes.set(name, { id, block }));
    for (const name of outputs) chain(name);
    for (const name of inputs) if (next.has(name) && !made.has(name)) chain(name);
  }
  if (names.some((list) => list.length !== blocks)) return undefined;
  return { calls, start, period, blocks, nodes, values, names };
}

/** Numbers of what calls do. */
class Signatures {
  readonly #graph: Graph;
  readonly #constants: ReadonlyMap<string, TensorData>;
  readonly #ids = new Map<string, number>();
  readonly #kinds = new Map<string, string>();
  #own = 0;

  constructor(graph: Graph) {
    this.#graph = graph;
    this.#constants = new Map(graph.nodes.flatMap((n) => (n.kind === "get_attr" ? [[n.outputs[0], n.data]] : [])));
  }

  of(call: Call): number {
    const text = `${call.kind} ${opKey(call)};${this.#attributes(call)};${
      call.inputs.map((name) => this.#kind(name)).join()
    };${call.outputs.map((o) => (o === "" ? "" : "o")).join()}`;
    let id = this.#ids.get(text);
    if (id === undefined) this.#ids.set(text, id = this.#ids.size);
    return id;
  }

  #kind(name: string): string {
    if (name === "") return "";
    const data = this.#constants.get(name);
    if (!data) return "v";
    let kind = this.#kinds.get(name);
    if (kind === undefined) {
      const count = data.shape.reduce((a, b) => a * b, 1);
      kind = `${data.dtype}[${data.shape}]${count <= COMPARED_ELEMENTS ? `=${data.bytes()}` : ""}`;
      this.#kinds.set(name, kind);
    }
    return kind;
  }

  /** Calls with subgraphs or tensors are each their own. */
  #attributes(
    { attributes, captures }: { readonly attributes: Attributes; readonly captures?: readonly string[] },
  ): string {
    let text = captures?.length ? `own${this.#own++}` : "";
    for (const [name, { kind, value }] of Object.entries(attributes)) {
      text += `${name}=`;
      if (kind === "graph") text += `own${this.#own++};`;
      else if (kind === "tensor") text += `${value.dtype}[${value.shape}]${value.bytes()};`;
      else text += `${kind}:${Array.isArray(value) ? value.join() : String(value)};`;
    }
    return text;
  }
}

/** How far apart calls lie that occur once in every block. */
function periodOf(kinds: readonly number[], least: number): number | undefined {
  const last = new Map<number, number>(), gaps = new Map<number, { gap: number; count: number } | undefined>();
  kinds.forEach((kind, at) => {
    const before = last.get(kind);
    last.set(kind, at);
    if (before === undefined) return;
    const known = gaps.get(kind), gap = at - before;
    if (known === undefined && !gaps.has(kind)) gaps.set(kind, { gap, count: 1 });
    else if (known?.gap === gap) known.count++;
    else gaps.set(kind, undefined);
  });
  const votes = new Map<number, number>();
  for (const found of gaps.values()) {
    if (found && found.count >= least - 1) votes.set(found.gap, (votes.get(found.gap) ?? 0) + found.count);
  }
  return [...votes].reduce<[number, number] | undefined>((a, b) => (a && a[1] >= b[1] ? a : b), undefined)?.[0];
}

interface Run {
  readonly start: number;
  readonly period: number;
  readonly blocks: number;
  /** For each value of a block, that of the next block. */
  readonly next: ReadonlyMap<string, string>;
}

/** The longest run of calls that read, one period later, the same of the next block, or the very same. */
function longestRun(
  graph: Graph,
  { calls, kinds, period }: { calls: readonly Call[]; kinds: readonly number[]; period: number },
): Run | undefined {
  /** Of values that calls write: the call, and which output of it. */
  const producer = new Map<string, number>(), position = new Map<string, number>();
  calls.forEach((c, i) => {
    for (let k = 0; k < c.outputs.length; k++) {
      producer.set(c.outputs[k]!, i);
      position.set(c.outputs[k]!, k);
    }
  });
  producer.delete("");
  const linked = (i: number, from: number): boolean => {
    if (kinds[i] !== kinds[i + period]) return false;
    const a = calls[i]!.inputs, b = calls[i + period]!.inputs;
    const before = calls[i]!.outputs, after = calls[i + period]!.outputs;
    for (let k = 0; k < before.length; k++) {
      if (before[k] !== "" && !sameType(valueOf(graph, before[k]!), valueOf(graph, after[k]!))) return false;
    }
    for (let k = 0; k < a.length; k++) {
      const x = a[k]!, y = b[k]!, px = producer.get(x);
      if (x === y) {
        if (px !== undefined && px >= from) return false;
        continue;
      }
      const py = producer.get(y);
      if (px === undefined || py === undefined) {
        // Constants have equal types, as calls of one kind have; inputs may differ.
        if (px !== py || !sameType(valueOf(graph, x), valueOf(graph, y))) return false;
      } else if (py !== px + period || position.get(x) !== position.get(y)) return false;
    }
    return true;
  };
  let best: { start: number; end: number } | undefined, start = 0;
  for (let i = 0; i + period <= calls.length; i++) {
    if (i + period < calls.length && linked(i, start)) continue;
    const end = i + period;
    if (!best || end - start > best.end - best.start) best = { start, end: Math.min(end, calls.length) };
    start = i + 1;
  }
  if (!best) return undefined;
  const first = best.start, next = new Map<string, string>(), taken = new Map<string, string>();
  /** A weight that stands for two, or two for one, is more than a block has its own of. */
  const pair = (x: string, y: string): boolean => {
    if (x === y || x === "" || (producer.get(x) ?? Infinity) < first) return true;
    const known = next.get(x);
    if (known !== undefined) return known === y;
    if (taken.has(y)) return false;
    next.set(x, y);
    taken.set(y, x);
    return true;
  };
  for (let i = first; i + period < best.end; i++) {
    const a = calls[i]!, b = calls[i + period]!;
    if (!a.inputs.every((x, k) => pair(x, b.inputs[k]!)) || !a.outputs.every((x, k) => pair(x, b.outputs[k]!))) {
      return undefined;
    }
  }
  return { start: best.start, period, blocks: Math.floor((best.end - first) / period), next };
}

function sameType({ type: a }: Value, { type: b }: Value): boolean {
  if (a === b) return true;
  return a.dtype === b.dtype && a.shape?.length === b.shape?.length &&
    (a.shape ?? []).every((d, i) => dimEquals(d, b.shape![i]!));
}
