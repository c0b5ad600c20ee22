/**
 * Finding the equal blocks of a model, and leaving most of them out.
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
  type Node,
  opKey,
  outputOf,
  readsOf,
  type TensorData,
  type Value,
  valueOf,
} from "../graph/graph.ts";

/** A graph of fewer equal blocks, and which names stand for which others. */
export interface Repeats {
  /** The graph with `kept` blocks. */
  readonly graph: Graph<"global">;
  readonly kept: number;
  /** Blocks of the whole graph. */
  readonly blocks: number;
  /** By name of a call that each block has its own of: which, and in which block; also of those left out. */
  readonly nodes: ReadonlyMap<string, BlockPlace>;
  /** The same for values, those of constants and inputs included. */
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

/** Fewer equal blocks are not worth looking for. */
const LEAST_BLOCKS = 4;
/** Contents of so many elements are compared; of more, only their types. */
const COMPARED_ELEMENTS = 16;

/** The graph with `kept` of its equal blocks; undefined where there are not many more, or they do not fit together. */
export function foldBlocks(graph: Graph<"global">, kept: number): Repeats | undefined {
  const calls = graph.nodes.filter(isCall);
  if (calls.length < LEAST_BLOCKS * 2) return undefined;
  const signatures = new Signatures(graph), kinds = calls.map((c) => signatures.of(c));
  const period = periodOf(kinds);
  const run = period === undefined ? undefined : longestRun(graph, { calls, kinds, period });
  if (!run || run.blocks < 2 * kept) return undefined;
  return new Folding(graph, { ...run, calls, kept }).fold();
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
function periodOf(kinds: readonly number[]): number | undefined {
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
    if (found && found.count >= LEAST_BLOCKS - 1) votes.set(found.gap, (votes.get(found.gap) ?? 0) + found.count);
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

class Folding {
  readonly #graph: Graph<"global">;
  readonly #run: Run & { readonly calls: readonly Call[]; readonly kept: number };
  readonly #nodes = new Map<string, BlockPlace>();
  readonly #values = new Map<string, BlockPlace>();
  readonly #names: string[][] = [];

  constructor(graph: Graph<"global">, run: Run & { readonly calls: readonly Call[]; readonly kept: number }) {
    this.#graph = graph;
    this.#run = run;
  }

  fold(): Repeats | undefined {
    const { calls, start, period, blocks, kept } = this.#run;
    const made = new Set(calls.flatMap((c) => c.outputs));
    for (let i = start; i < start + period; i++) {
      const { inputs, outputs } = calls[i]!;
      const node = this.#names.push(Array.from({ length: blocks }, (_, b) => calls[i + b * period]!.name)) - 1;
      this.#names[node]!.forEach((name, block) => this.#nodes.set(name, { id: node, block }));
      const own = inputs.filter((name) => this.#run.next.has(name) && !made.has(name));
      for (const name of [...outputs, ...own]) if (name !== "") this.#chain(name);
    }
    if (this.#names.some((list) => list.length !== blocks)) return undefined;
    const out = new Set(calls.slice(start + kept * period, start + blocks * period).map((c) => c.name));
    const after = new Set(calls.slice(start + blocks * period).map((c) => c.name));
    const graph = this.#reduced(out, after);
    return graph && { graph, kept, blocks, nodes: this.#nodes, values: this.#values, names: this.#names };
  }

  /** Numbers a value of the first block and those that stand for it in the others. */
  #chain(first: string): void {
    if (this.#values.has(first)) return;
    const id = this.#names.length, list: string[] = [];
    for (let name: string | undefined = first, b = 0; name !== undefined && b < this.#run.blocks; b++) {
      list.push(name);
      this.#values.set(name, { id, block: b });
      name = this.#run.next.get(name);
    }
    this.#names.push(list);
  }

  /** The name that what comes after the blocks reads instead; undefined where it reads of a block in the middle. */
  #instead(name: string): string | undefined {
    const place = this.#values.get(name), { kept, blocks } = this.#run;
    if (!place || place.block < kept) return name;
    return place.block >= blocks - kept ? this.#names[place.id]![place.block - (blocks - kept)] : undefined;
  }

  #reduced(out: ReadonlySet<string>, after: ReadonlySet<string>): Graph<"global"> | undefined {
    const { kept, blocks } = this.#run, output = outputOf(this.#graph);
    const isLeftOut = (name: string) => (this.#values.get(name)?.block ?? -1) >= kept;
    const nodes: Node[] = [];
    for (const node of this.#graph.nodes) {
      if (node.kind === "output" || (isCall(node) ? out.has(node.name) : isLeftOut(node.outputs[0]!))) continue;
      if (!isCall(node) || !after.has(node.name)) {
        nodes.push(node);
        continue;
      }
      if (readsOf(node).some((name) => this.#instead(name) === undefined)) return undefined;
      if (node.captures?.some((name) => this.#instead(name) !== name)) return undefined;
      nodes.push({ ...node, inputs: node.inputs.map((name) => this.#instead(name)!) });
    }
    const results = output.inputs.map((value, at) => ({ value, at, name: output.names[at]! })).flatMap((r) => {
      const place = this.#values.get(r.value);
      if (!place || place.block < kept) return [r];
      // What every block gives is left out with it; what only the last gives is that of the last that is kept.
      const every = this.#names[place.id]!.every((name) => output.inputs.includes(name));
      return every ? [] : [{ ...r, value: this.#instead(r.value) ?? "" }];
    });
    if (results.some((r) => r.value === "")) return undefined;
    const remains = new Set(nodes.flatMap((n): readonly string[] => n.outputs));
    const at = new Map(results.map((r, i) => [r.at, i]));
    const carried = this.#graph.carried.flatMap(({ input, output: index }) => {
      // Of states that steps leave as they are, or that the graph begins, nothing is folded.
      const i = index === undefined ? undefined : at.get(index);
      return i === undefined && !remains.has(input) ? [] : [{ input, output: i ?? -1 }];
    });
    if (carried.some((c) => c.output < 0 || !remains.has(c.input))) return undefined;
    const values = new Map<string, Value>();
    for (const name of remains) if (name !== "") values.set(name, valueOf(this.#graph, name));
    const reads = nodes.every((n) => readsOf(n).every((name) => remains.has(name)));
    if (!reads || results.some((r) => !remains.has(r.value)) || blocks <= kept) return undefined;
    return {
      ...this.#graph,
      nodes: [...nodes, { ...output, inputs: results.map((r) => r.value), names: results.map((r) => r.name) }],
      values,
      carried,
    };
  }
}
