/**
 * Finding the equal blocks of a model.
 *
 * Calls are compared by what they do (op, attributes, types and small contents of constants); a period is how far apart the
 * calls lie that do the same once a block. Along the longest run in which each call reads what the call one period before
 * reads, one block further, windows of one period are blocks, wherever they begin. Nothing is known of names.
 */
import { dimEquals } from "../core/dim.ts";
import { type Call, type Graph, isCall, opKey, type TensorData, type Value, valueOf } from "../graph/graph.ts";

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
  const signatures = new Signatures(graph), kinds = Int32Array.from(calls, (c) => signatures.of(c));
  const period = periodOf(kinds, least);
  const run = period === undefined ? undefined : longestRun(graph, { calls, kinds, period });
  return run && run.blocks >= least ? nameBlocks(calls, run) : undefined;
}

/** Numbers of what calls do. */
class Signatures {
  /** By name of a constant: what it is, and small ones by content. */
  readonly #constants = new Map<string, number>();
  readonly #texts = new Map<string, number>();
  /** What was seen of a call, and of a constant, part by part. */
  readonly #seen: Branch = { id: 0, next: new Map() };
  readonly #data: Branch = { id: 0, next: new Map() };
  #own = 0;

  constructor(graph: Graph) {
    for (const node of graph.nodes) {
      if (node.kind === "get_attr") this.#constants.set(node.outputs[0], this.#constant(node.data));
    }
  }

  of(call: Call): number {
    let at = this.#follow(this.#seen, this.#text(opKey(call)));
    at = this.#follow(at, this.#attributes(call));
    for (const name of call.inputs) at = this.#follow(at, name === "" ? MISSING : this.#constants.get(name) ?? VALUE);
    at = this.#follow(at, END);
    for (const name of call.outputs) at = this.#follow(at, name === "" ? MISSING : VALUE);
    return at.id;
  }

  #follow({ next }: Branch, part: number): Branch {
    let branch = next.get(part);
    if (branch === undefined) next.set(part, branch = { id: this.#ids++, next: new Map() });
    return branch;
  }
  #ids = 1;

  #text(text: string): number {
    let id = this.#texts.get(text);
    if (id === undefined) this.#texts.set(text, id = this.#texts.size + FIRST_TEXT);
    return id;
  }

  /** What a constant is: its type, and of small ones the content. */
  #constant(data: TensorData): number {
    let at = this.#follow(this.#follow(this.#data, this.#text(data.dtype)), data.shape.length), count = 1;
    for (const d of data.shape) {
      count *= d;
      at = this.#follow(at, d);
    }
    if (count <= COMPARED_ELEMENTS) { for (const byte of data.bytes()) at = this.#follow(at, byte); }
    return at.id + FIRST_TEXT;
  }

  /** Calls with subgraphs are each their own. */
  #attributes({ kind, attributes, captures }: Call): number {
    let text = captures?.length ? `own${this.#own++}` : kind as string;
    for (const name in attributes) {
      const { kind, value } = attributes[name]!;
      text += `;${name}=`;
      if (kind === "graph") text += `own${this.#own++}`;
      else if (kind === "tensor") text += `${value.dtype}[${value.shape}]${value.bytes()}`;
      else text += `${kind}:${Array.isArray(value) ? value.join() : String(value)}`;
    }
    return this.#text(text);
  }
}

/** Parts of a signature that are no texts or constants, which are numbered from {@linkcode FIRST_TEXT}. */
const MISSING = 0, VALUE = 1, END = 2, FIRST_TEXT = 3;

interface Branch {
  readonly id: number;
  readonly next: Map<number, Branch>;
}

/** How far apart calls lie that occur once in every block. */
function periodOf(kinds: Int32Array, least: number): number | undefined {
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
  /** Whether a call writes the value. */
  readonly isMade: (name: string) => boolean;
}

/** Outputs of a call are numbered by the call, and by their position in it. */
const MOST_OUTPUTS = 256;

/** The longest run of calls that read, one period later, the same of the next block, or the very same. */
function longestRun(
  graph: Graph,
  { calls, kinds, period }: { calls: readonly Call[]; kinds: Int32Array; period: number },
): Run | undefined {
  /** Of values that calls write: which, see {@linkcode MOST_OUTPUTS}. */
  const producer = new Map<string, number>();
  for (let i = 0; i < calls.length; i++) {
    const { outputs } = calls[i]!;
    if (outputs.length > MOST_OUTPUTS) return undefined;
    for (let k = 0; k < outputs.length; k++) if (outputs[k] !== "") producer.set(outputs[k]!, i * MOST_OUTPUTS + k);
  }
  const distance = period * MOST_OUTPUTS;
  const linked = (i: number, from: number): boolean => {
    if (kinds[i] !== kinds[i + period]) return false;
    const one = calls[i]!, other = calls[i + period]!;
    for (let k = 0; k < one.outputs.length; k++) {
      const x = one.outputs[k]!;
      if (x !== "" && !sameType(valueOf(graph, x), valueOf(graph, other.outputs[k]!))) return false;
    }
    for (let k = 0; k < one.inputs.length; k++) {
      const x = one.inputs[k]!, y = other.inputs[k]!, px = producer.get(x);
      if (x === y) {
        if (px !== undefined && px >= from * MOST_OUTPUTS) return false;
        continue;
      }
      const py = producer.get(y);
      // Constants have equal types, as calls of one kind have; inputs may differ.
      if (px === undefined || py === undefined) {
        if (px !== py || !sameType(valueOf(graph, x), valueOf(graph, y))) return false;
      } else if (py !== px + distance) return false;
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
  const blocks = Math.floor((best.end - best.start) / period);
  return { start: best.start, period, blocks, isMade: (name) => producer.has(name) };
}

function sameType({ type: a }: Value, { type: b }: Value): boolean {
  if (a === b) return true;
  return a.dtype === b.dtype && a.shape?.length === b.shape?.length &&
    (a.shape ?? []).every((d, i) => dimEquals(d, b.shape![i]!));
}

/** Numbers what a block has. Undefined where a constant stands for two in another block, or is shared by some. */
function nameBlocks(calls: readonly Call[], { start, period, blocks, isMade }: Run): Blocks | undefined {
  const nodes = new Map<string, BlockPlace>(), values = new Map<string, BlockPlace>(), names: string[][] = [];
  const number = (into: Map<string, BlockPlace>, nameIn: (call: Call) => string, at: number) => {
    const id = names.length, list: string[] = [];
    for (let block = 0; block < blocks; block++) {
      const name = nameIn(calls[at + block * period]!);
      list.push(name);
      into.set(name, { id, block });
    }
    names.push(list);
  };
  for (let i = start; i < start + period; i++) {
    const { inputs, outputs } = calls[i]!;
    number(nodes, (call) => call.name, i);
    for (let k = 0; k < outputs.length; k++) if (outputs[k] !== "") number(values, (call) => call.outputs[k]!, i);
    for (let k = 0; k < inputs.length; k++) {
      const name = inputs[k]!;
      if (name === "" || isMade(name)) continue;
      const known = values.get(name);
      const isShared = (b: number) => calls[i + b * period]!.inputs[k] === name;
      for (let b = 1; b < blocks; b++) {
        const other = calls[i + b * period]!.inputs[k]!, place = values.get(other);
        if (known ? names[known.id]![b] !== other : isShared(b) !== isShared(1) || (place && !isShared(b))) {
          return undefined;
        }
      }
      if (!known && blocks > 1 && !isShared(1)) number(values, (call) => call.inputs[k]!, i);
    }
  }
  // Each name is one thing of one block.
  return values.size + nodes.size === names.length * blocks
    ? { calls, start, period, blocks, nodes, values, names }
    : undefined;
}
