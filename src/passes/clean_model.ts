/**
 * Cleaning a model of equal blocks at the price of a few.
 *
 * ```text
 * imported:  head, block 0 … block 79, tail      ->  head, block 0 … block 3, tail
 * cleaned:   head', block 0' … block 3', tail'   ->  head', block 0' … block 3', 76 times block 1' renamed, tail'
 * ```
 * Passes look at a place and its surroundings, so what they make of three equal blocks in a row they make of any number. That
 * the clean blocks are equal is looked for again, and nothing is assumed of where they begin: calls that all blocks share move
 * to the first. Whatever does not fit, a name above all, makes the whole model be cleaned instead.
 */
import { symbolsOf } from "../core/dim.ts";
import {
  type Call,
  type GetAttr,
  type Graph,
  isCall,
  type Node,
  outputOf,
  type Value,
  valueOf,
} from "../graph/graph.ts";
import { type BlockPlace, type Blocks, findBlocks } from "../plan/blocks.ts";
import { KEPT_BLOCKS } from "../plan/fold.ts";
import { foldFound, type Repeats } from "../plan/repeats.ts";
import { ParallelExecutionCtx } from "./context.ts";
import { lastLogits } from "./last_logits.ts";
import { cleanPipeline } from "./pipelines.ts";

/** Blocks that are cleaned: as many as a search takes, and one of which parts move to the others. */
const CLEANED = KEPT_BLOCKS[0] + 1;
/** Of fewer blocks, all are cleaned in about the same time. */
const LEAST_BLOCKS = CLEANED + 3;
/** Equal blocks of the clean graph, of which the middle one stands for those that were left out. */
const LEAST_CLEAN = 3, MIDDLE = 1;
/** Contents of constants are equal in equal blocks up to so many elements. */
const COMPARED_ELEMENTS = 16;

/** What `cleanPipeline` makes of an imported graph, in less time where the model has many equal blocks. */
export function cleanModel(graph: Graph<"global">, ctx: ParallelExecutionCtx): Graph<"global"> {
  const blocks = cleanBlocks(graph, ctx);
  if (!blocks) return cleanPipeline().run(graph, ctx);
  return ctx.config.logits === "last" ? lastLogits(blocks.graph()) : blocks.graph();
}

/** A clean model of which only some of the equal blocks are written out. */
export interface CleanBlocks {
  /** Its blocks, for a search of a few. */
  readonly repeats: Repeats;
  /** The module that a call of the whole comes from. */
  readonly scopeOf: (name: string) => string | undefined;
  /** The whole clean graph. */
  readonly graph: () => Graph<"global">;
}

/**
 * Cleans a few of the blocks of an imported graph; undefined where the whole has to be cleaned. All positions have logits: where only
 * the last has, the last block is no longer equal to the others.
 */
export function cleanBlocks(
  graph: Graph<"global">,
  { ranks, rank, config }: ParallelExecutionCtx,
): CleanBlocks | undefined {
  // Who looks at graphs between the passes looks at all of the model, and a layer to be quantised may be any.
  if (config.dump || config.quantize) return undefined;
  const found = findBlocks(graph, LEAST_BLOCKS);
  if (!found || readsFirstBlocks(found)) return undefined;
  const folded = foldFound(graph, found, CLEANED);
  if (!folded) return undefined;
  const few = cleanPipeline().run(
    folded.graph,
    new ParallelExecutionCtx({ ranks, rank, config: { ...config, logits: "all" } }),
  );
  if (graph.carried.length === 0 && few.carried.length > 0) return undefined;
  const blocks = findBlocks(few, LEAST_CLEAN);
  return blocks && new Unfolding({ graph, found, few, blocks }).result();
}

/** Whether what comes after the blocks reads of the first: folded, that cannot be told from reading of the last. */
function readsFirstBlocks({ calls, start, period, blocks, values }: Blocks): boolean {
  return calls.slice(start + blocks * period).some((call) =>
    [...call.inputs, ...call.captures ?? []].some((name) => (values.get(name)?.block ?? CLEANED) < CLEANED)
  );
}

/** Gives what was left out its names, and what comes after it its own. */
class Unfolding {
  readonly #graph: Graph<"global">;
  readonly #found: Blocks;
  readonly #few: Graph<"global">;
  readonly #blocks: Blocks;
  /** Blocks that were left out. */
  readonly #more: number;
  /** Blocks of the clean graph that go by the names of imported ones; what comes later belongs to the end of the model. */
  readonly #kept: number;
  /** The clean graph up to the last of them, the middle one, and the rest. */
  readonly #head: readonly Node[];
  readonly #middle: readonly Node[];
  readonly #tail: readonly Node[];
  /** Constants and calls of the imported graph. */
  readonly #constants = new Map<string, GetAttr>();
  readonly #calls = new Map<string, Call>();
  /** Values that all blocks share, or that come before them. */
  readonly #fixed = new Set<string>();

  constructor(
    { graph, found, few, blocks }: {
      readonly graph: Graph<"global">;
      readonly found: Blocks;
      readonly few: Graph<"global">;
      readonly blocks: Blocks;
    },
  ) {
    this.#graph = graph;
    this.#found = found;
    this.#few = few;
    this.#blocks = blocks;
    this.#more = found.blocks - CLEANED;
    for (const node of graph.nodes) {
      if (node.kind === "get_attr") this.#constants.set(node.outputs[0], node);
      else if (isCall(node)) this.#calls.set(node.name, node);
    }
    this.#kept = this.#namedBlocks();
    const { calls, start, period, values } = blocks, nodes = few.nodes;
    const end = (block: number) => nodes.indexOf(calls[start + (block + 1) * period - 1]!) + 1;
    const to = end(this.#kept - 1);
    this.#head = nodes.slice(0, to);
    this.#middle = nodes.slice(end(MIDDLE - 1), end(MIDDLE));
    this.#tail = nodes.slice(to);
    for (const node of this.#head) {
      if (node.kind === "placeholder") continue;
      for (const name of [...node.outputs, ...isCall(node) ? node.inputs : []]) {
        if (!values.has(name)) this.#fixed.add(name);
      }
    }
  }

  /** Undefined where it is not sure what the whole is. */
  result(): CleanBlocks | undefined {
    if (this.#kept < LEAST_CLEAN) return undefined;
    if (!this.#middle.every((node) => this.#isRepeatable(node)) || !this.#tail.every((node) => this.#isMovable(node))) {
      return undefined;
    }
    const repeats = this.#repeats();
    if (!outputOf(this.#graph).inputs.every((name) => repeats.values.has(name) || repeats.graph.values.has(name))) {
      return undefined;
    }
    return { repeats, scopeOf: this.#scopesOf(repeats), graph: () => this.#whole() };
  }

  /**
   * How many blocks go by names that follow from those of imported blocks. A later one may have begun as part of the last
   * block, which is none of those that were folded.
   */
  #namedBlocks(): number {
    const { nodes, values, names, blocks } = this.#blocks;
    let kept = blocks;
    const look = (places: Blocks["nodes"], own: Blocks["nodes"]) => {
      for (const [name, { id, block }] of places) {
        if (block + 1 < kept && this.#shifted(name, 1, own) !== names[id]![block + 1]) kept = block + 1;
      }
    };
    look(nodes, this.#found.nodes);
    look(values, this.#found.values);
    return kept;
  }

  /** What `name` is called `by` blocks further: it is that of an imported thing, or that and an ending. */
  #shifted(name: string, by: number, own: Blocks["nodes"]): string | undefined {
    const { nodes, values, names } = this.#found;
    const exact = own.get(name);
    if (exact) return names[exact.id]![exact.block + by];
    for (let end = name.lastIndexOf("."); end > 0; end = name.lastIndexOf(".", end - 1)) {
      const stem = name.slice(0, end), place = nodes.get(stem) ?? values.get(stem);
      if (place) return names[place.id]![place.block + by]! + name.slice(end);
    }
    return undefined;
  }

  #nodeName(name: string, by: number): string {
    return this.#shifted(name, by, this.#found.nodes) ?? name;
  }

  #valueName(name: string, by: number): string {
    return name === "" || this.#fixed.has(name) ? name : this.#shifted(name, by, this.#found.values) ?? name;
  }

  /** Whether a node of the middle block can stand for others: all that it writes is the block's, and alike in all. */
  #isRepeatable(node: Node): boolean {
    const isOwn = (name: string) => name === "" || (this.#blocks.values.has(name) && isAlike(valueOf(this.#few, name)));
    return (!isCall(node) || node.captures === undefined) && node.outputs.every(isOwn) && this.#isMovable(node);
  }

  /** Whether it is known what a node is further on. */
  #isMovable(node: Node): boolean {
    if (node.kind === "output") return true;
    if (node.kind === "get_attr") return this.#data(node, this.#valueName(node.outputs[0], 1)) !== undefined;
    return isCall(node) &&
      (this.#nodeName(node.name, 1) === node.name || this.#origin(node.name)?.scope === node.scope);
  }

  /** A node, `by` blocks further; it reads what `reads` says. */
  #moved(node: Node, by: number, reads = (name: string) => this.#valueName(name, by)): Node {
    const name = this.#nodeName(node.name, by), outputs = node.outputs.map((o) => this.#valueName(o, by));
    if (node.kind === "get_attr") {
      const [own] = outputs as [string];
      const data = this.#data(node, own)!;
      return { ...node, name: node.name === node.outputs[0] ? own : name, outputs: [own], data };
    }
    if (node.kind === "output") return { ...node, inputs: node.inputs.map(reads) };
    if (!isCall(node)) return node;
    const { scope, ...call } = node, moved = name === node.name ? scope : this.#origin(name)?.scope;
    return {
      ...call,
      name,
      inputs: node.inputs.map(reads),
      outputs,
      ...(node.captures ? { captures: node.captures.map(reads) } : {}),
      ...(moved === undefined ? {} : { scope: moved }),
    };
  }

  /** The data of the constant that is called `name` where `node` stands for it. */
  #data({ outputs: [like], data }: GetAttr, name: string): GetAttr["data"] | undefined {
    if (name === like) return data;
    if (this.#constants.get(like)?.data === data) return this.#constants.get(name)?.data;
    // Made by a pass: the same in all blocks, as far as it was compared.
    return data.shape.reduce((a, b) => a * b, 1) <= COMPARED_ELEMENTS ? data : undefined;
  }

  /** The imported call that a call is, or was made of. */
  #origin(name: string): Call | undefined {
    for (let end = name.length; end > 0; end = name.lastIndexOf(".", end - 1)) {
      const call = this.#calls.get(name.slice(0, end));
      if (call) return call;
    }
    return undefined;
  }

  /** The few blocks as those of a graph that has all of them. */
  #repeats(): Repeats {
    const { names, nodes, values } = this.#blocks, kept = this.#kept, more = this.#more;
    const few = new Map<string, Value>();
    // What comes after the blocks reads the last that is there.
    const renamed = (name: string) => ((values.get(name)?.block ?? kept) < kept ? name : this.#valueName(name, more));
    const moved = this.#tail.map((node) => this.#moved(node, more, renamed));
    const head = this.#head.map((node): Node => {
      if (node.kind !== "placeholder") return node;
      const name = renamed(node.outputs[0]);
      return name === node.outputs[0] ? node : { ...node, name, outputs: [name] };
    });
    for (const [name, value] of this.#few.values) {
      const to = renamed(name);
      few.set(to, to === name ? value : { ...value, name: to });
    }
    const graph = {
      ...this.#few,
      nodes: [...head, ...moved],
      values: few,
      carried: this.#few.carried.map((c) => ({ ...c, input: renamed(c.input) })),
    };
    const full = {
      names: [] as string[][],
      nodes: new Map<string, BlockPlace>(),
      values: new Map<string, BlockPlace>(),
    };
    const unfold = (places: Blocks["nodes"], own: Blocks["nodes"], into: Map<string, BlockPlace>) => {
      for (const { id, block } of places.values()) {
        if (block > 0) continue;
        const list = names[id]!.slice(0, kept), last = list.at(-1)!;
        for (let by = 1; by <= more; by++) list.push(this.#shifted(last, by, own)!);
        full.names[id] = list;
        list.forEach((name, at) => into.set(name, { id, block: at }));
      }
    };
    unfold(nodes, this.#found.nodes, full.nodes);
    unfold(values, this.#found.values, full.values);
    return { graph, kept, blocks: kept + more, ...full };
  }

  #scopesOf({ graph }: Repeats): CleanBlocks["scopeOf"] {
    const scopes = new Map(graph.nodes.flatMap((n) => (isCall(n) ? [[n.name, n.scope] as const] : [])));
    return (name) => scopes.has(name) ? scopes.get(name) : this.#origin(name)?.scope;
  }

  #whole(): Graph<"global"> {
    const more = this.#more, first = this.#kept - MIDDLE, nodes: Node[] = [], values = new Map<string, Value>();
    const add = (node: Node, like: Node = node) => {
      nodes.push(node);
      node.outputs.forEach((name, i) => {
        if (name === "") return;
        const value = valueOf(this.#few, like.outputs[i]!);
        values.set(name, name === value.name ? value : { ...value, name });
      });
    };
    for (const node of this.#graph.nodes) {
      if (node.kind !== "placeholder") continue;
      nodes.push(node);
      const [name] = node.outputs;
      values.set(name, this.#few.values.get(name) ?? valueOf(this.#graph, name));
    }
    for (const node of this.#head) if (node.kind !== "placeholder") add(node);
    for (let by = first; by < first + more; by++) for (const node of this.#middle) add(this.#moved(node, by), node);
    for (const node of this.#tail) if (node.kind !== "output") add(this.#moved(node, more), node);
    return { ...this.#few, nodes: [...nodes, outputOf(this.#graph)], values, carried: this.#graph.carried };
  }
}

/** Whether a value can be of one type, and known alike, in all blocks: sizes that data decide are each their own. */
function isAlike({ type: { shape }, ints }: Value): boolean {
  return (ints?.elements.length ?? 0) <= COMPARED_ELEMENTS &&
    [...shape ?? [], ...ints?.elements ?? []].every((d) =>
      typeof d === "number" || [...symbolsOf(d)].every((s) => !s.includes("#"))
    );
}
