/** The pass that holds weights in 4 or 8 bits, where the user asks for it. */
import { PlanError } from "../core/errors.ts";
import { int, intOf } from "../graph/attributes.ts";
import {
  type Call,
  type GetAttr,
  type Graph,
  isCall,
  type Node,
  opKey,
  producers,
  type Value,
} from "../graph/graph.ts";
import { matchesLayer, type Named, nearLayers } from "../plan/layer_names.ts";
import type { ParallelExecutionCtx } from "./context.ts";
import { eliminateDeadCode } from "./eliminate_dead_code.ts";
import type { Pass } from "./pass.ts";
import type { QuantisedData } from "./quantise/quantised_data.ts";
import { formatKey, formatsByPattern, type WeightFormat } from "./quantise/weight_format.ts";
import { FreshNames, type RewriteNote } from "./rewrites/rewrite.ts";

/** What reports call it. */
const RULE = "quantise";

/**
 * Replaces layers by those that hold their weights in blocks, as `config.quantize` says. Products become com.microsoft's
 * MatMulNBits, tables of embeddings EmbeddingNBits, which has the same layout: a head that is tied to its table stays so.
 *
 * ```text
 * %y = call_module shardwise.Linear(%x, %w)     ->  %y = com.microsoft.MatMulNBits(%x, %w.int4_32, %w.int4_32.scales)
 * %y = call_module shardwise.Embedding(%w, %i)  ->  %y = shardwise.EmbeddingNBits(%w.int4_32, %i, %w.int4_32.scales)
 * ```
 * Nothing is read here: the new constants compute a rank's part when it is loaded. What became of each layer goes to
 * `ctx.rewrites`.
 */
export class QuantisePass implements Pass {
  readonly name = "quantise";

  /**
   * The graph with quantised layers.
   *
   * @throws {PlanError} If a pattern means no layer with a weight, a format is unknown, or a layer that was named cannot have it.
   */
  readonly apply = (graph: Graph<"global">, ctx: ParallelExecutionCtx): Graph<"global"> => {
    const { quantize } = ctx.config;
    if (quantize === undefined) return graph;
    return new Quantiser(graph, ctx).run(formatsByPattern(quantize));
  };
}

/** A layer with a constant weight. */
interface Layer {
  readonly node: Call;
  readonly weight: GetAttr;
  readonly kind: "Linear" | "Embedding";
}

class Quantiser {
  readonly #graph: Graph<"global">;
  readonly #ctx: ParallelExecutionCtx;
  readonly #names: FreshNames;
  readonly #values: Map<string, Value>;
  /** Names of quantised constants by weight and form. */
  readonly #made = new Map<string, readonly string[]>();

  constructor(graph: Graph<"global">, ctx: ParallelExecutionCtx) {
    this.#graph = graph;
    this.#ctx = ctx;
    this.#names = new FreshNames(graph);
    this.#values = new Map(graph.values);
  }

  run(patterns: ReturnType<typeof formatsByPattern>): Graph<"global"> {
    const layers = layersOf(this.#graph);
    const chosen = new Map<string, { readonly format: WeightFormat | undefined; readonly pattern: string }>();
    for (const [pattern, format] of patterns) {
      const meant = layers.filter(({ node }) => matchesLayer(pattern, node));
      if (meant.length === 0) throw nothingToQuantise(pattern, layers.map(({ node }) => node));
      for (const { node } of meant) chosen.set(node.name, { format, pattern });
    }
    const byName = new Map(layers.map((layer) => [layer.node.name, layer]));
    const notes: RewriteNote[] = [];
    const nodes = this.#graph.nodes.flatMap((node): readonly Node[] => {
      const { format, pattern = "" } = chosen.get(node.name) ?? {}, layer = byName.get(node.name);
      if (!format || !layer) return [node];
      const reason = whyNot(layer, format);
      if (reason !== undefined && pattern !== "*") {
        throw new PlanError(`Cannot quantise layer "${node.name}" to ${formatKey(format)}: ${reason}`, {
          hint: `narrow the pattern "${pattern}", or ask for something else`,
        });
      }
      notes.push({ rule: RULE, node: node.name, ...(reason === undefined ? {} : { reason }) });
      return reason === undefined ? this.#quantised(layer, format) : [node];
    });
    this.#ctx.rewrites.push(...notes);
    if (notes.every(({ reason }) => reason !== undefined)) return this.#graph;
    const opsets = new Map(this.#graph.opsets);
    for (const domain of ["com.microsoft", "shardwise"]) if (!opsets.has(domain)) opsets.set(domain, 1);
    return eliminateDeadCode({ ...this.#graph, nodes, values: this.#values, opsets });
  }

  /** The layer on quantised weights, and these where they are new. */
  #quantised({ node, weight, kind }: Layer, format: WeightFormat): Node[] {
    const transposed = kind === "Embedding" || intOf(node.attributes, "transB") === 1;
    const data = this.#ctx.quantised.of({ data: weight.data, transposed }, format);
    const key = `${weight.outputs[0]} ${formatKey(format)} ${transposed}`;
    const constants: Node[] = [];
    let names = this.#made.get(key);
    if (!names) {
      this.#made.set(key, names = this.#constants(`${weight.outputs[0]}.${formatKey(format)}`, data, constants));
    }
    const [packed = "", scales = "", zeros = ""] = names;
    const { bits, block: block_size, accuracyLevel } = format;
    const form = { bits: int(bits), block_size: int(block_size) };
    const call = { ...node, kind: "call_function" } as const;
    if (kind === "Embedding") {
      const inputs = [packed, node.inputs[1]!, scales, ...(zeros ? [zeros] : [])];
      return [...constants, { ...call, op: "EmbeddingNBits", inputs, attributes: form }];
    }
    const [n, k] = transposed ? weight.data.shape : weight.data.shape.toReversed();
    const [x = "", , bias = ""] = node.inputs;
    const inputs = [x, packed, scales, ...(bias ? [zeros, "", bias] : zeros ? [zeros] : [])];
    const attributes = { ...form, K: int(k!), N: int(n!), accuracy_level: int(accuracyLevel) };
    return [...constants, { ...call, domain: "com.microsoft", op: "MatMulNBits", inputs, attributes }];
  }

  #constants(stem: string, { packed, scales, zeros }: QuantisedData, nodes: Node[]): string[] {
    const add = (name: string, data: typeof packed) => {
      const fresh = this.#names.of(name);
      nodes.push({ kind: "get_attr", name: fresh, outputs: [fresh], data });
      this.#values.set(fresh, { name: fresh, type: { dtype: data.dtype, shape: data.shape } });
      return fresh;
    };
    return [add(stem, packed), add(`${stem}.scales`, scales), ...(zeros ? [add(`${stem}.zeros`, zeros)] : [])];
  }
}

/** The layers that have a weight of their own. */
function layersOf(graph: Graph<"global">): Layer[] {
  const byName = producers(graph);
  return graph.nodes.flatMap((node): Layer[] => {
    if (!isCall(node)) return [];
    const kind = { "shardwise.Linear": "Linear", "shardwise.Embedding": "Embedding" }[opKey(node)] as Layer["kind"];
    const weight = kind && byName.get(node.inputs[kind === "Linear" ? 1 : 0]!);
    return weight?.kind === "get_attr" ? [{ node, weight, kind }] : [];
  });
}

/** Why a layer keeps its weight as it is. */
function whyNot({ weight, kind, node }: Layer, { block }: WeightFormat): string | undefined {
  const { dtype, shape } = weight.data;
  if (dtype !== "f32" && dtype !== "f16") return `its weight is ${dtype}, not f32 or f16`;
  const transposed = kind === "Embedding" || intOf(node.attributes, "transB") === 1;
  const k = shape[transposed ? 1 : 0]!;
  if (k < block) return `its ${k} rows are fewer than the ${block} of a block`;
  if (kind === "Embedding" && k % block !== 0) return `its rows of ${k} are no whole number of blocks of ${block}`;
  return undefined;
}

/** The layers of a clean graph that have a weight of their own. */
export function quantisableLayers(graph: Graph<"global">): readonly Call[] {
  return layersOf(graph).map(({ node }) => node);
}

/** That a pattern means none of `layers`, with the names that are near it. */
export function nothingToQuantise(pattern: string, layers: readonly Named[]): PlanError {
  if (layers.length === 0) {
    return new PlanError("Cannot quantise: no layer of the model has a constant weight of two dims that is of floats", {
      hint: "leave --quantize out; weights may be quantised already",
    });
  }
  return new PlanError(`No layer with a weight to quantise matches "${pattern}"${nearLayers(pattern, layers)}`, {
    hint: "use the name of a layer or module as the plan prints it, with * for any characters",
  });
}
