/**
 * Lifts ops with weights to the layers that they are.
 *
 * ```text
 * 1  %m = MatMul(%x, %w)  %y = Add(%m, %b)             ->  %y = call_module shardwise.Linear(%x, %w, %b)
 * 2  %t = Transpose(%w) {perm=[1,0]}  %y = MatMul(%x, %t) ->  %y = call_module shardwise.Linear(%x, %w) {transB=1}
 * 3  %y = Gemm(%x, %w, %b) {transB=1}                  ->  %y = call_module shardwise.Linear(%x, %w, %b) {transB=1}
 * 4  %y = Gather(%w, %ids)                             ->  %y = call_module shardwise.Embedding(%w, %ids)
 * 5  %l = SoftmaxCrossEntropyLoss(%x, %labels)         ->  %l = call_module shardwise.CrossEntropyLoss(%x, %labels)
 * ```
 * Weights are constant 2-D floats, seen through Identity and Transpose; one that several nodes use stays one constant.
 * A bias is a constant as long as the output, in either operand of an Add that is the only reader of the product. Gemm
 * with transA, or alpha or beta other than 1, stays as it is; so does a loss whose second output is read.
 */
import { dtypeInfo } from "../core/dtype.ts";
import { floatOf, int, intOf, intsOf } from "../graph/attributes.ts";
import {
  type Attributes,
  type Call,
  consumers,
  type GetAttr,
  type Graph,
  isCall,
  type Node,
  opKey,
  producers,
  valueOf,
} from "../graph/graph.ts";
import { eliminateDeadCode } from "./eliminate_dead_code.ts";

/** The graph with layers. Types are needed only of constants. */
export function liftLayers(graph: Graph<"global">): Graph<"global"> {
  const lifter = new Lifter(graph);
  const nodes = graph.nodes.flatMap((node) => lifter.node(node));
  if (!lifter.changed) return graph;
  const values = new Map(graph.values);
  for (const name of lifter.dropped) values.delete(name);
  const opsets = new Map(graph.opsets);
  if (!opsets.has("shardwise")) opsets.set("shardwise", 1);
  return eliminateDeadCode({ ...graph, nodes, values, opsets });
}

/** A constant, and whether it is read transposed. */
interface Weight {
  readonly node: GetAttr;
  readonly transposed: boolean;
}

class Lifter {
  changed = false;
  /** Values that no node writes any more. */
  readonly dropped: string[] = [];
  readonly #graph: Graph<"global">;
  readonly #producers: ReadonlyMap<string, Node>;
  readonly #consumers: ReadonlyMap<string, readonly Node[]>;
  /** Products that an Add is to take up: the layer without its bias, by the Add's node name. */
  readonly #pending = new Map<string, { readonly layer: Call; readonly bias: string }>();

  constructor(graph: Graph<"global">) {
    this.#graph = graph;
    this.#producers = producers(graph);
    this.#consumers = consumers(graph);
  }

  /** What stands in the place of `node`. */
  node(node: Node): readonly Node[] {
    if (!isCall(node)) return [node];
    const taken = this.#pending.get(node.name);
    if (taken) return [{ ...taken.layer, inputs: [...taken.layer.inputs, taken.bias], outputs: node.outputs }];
    const layer = this.#lift(node);
    if (!layer) return [node];
    this.changed = true;
    if (layer.op !== "Linear" || layer.inputs.length > 2) return [layer];
    const add = this.#biasOf(layer);
    if (!add) return [layer];
    this.#pending.set(add.node.name, { layer, bias: add.bias });
    this.dropped.push(...layer.outputs);
    return [];
  }

  #lift(node: Call): Call | undefined {
    switch (opKey(node)) {
      case "MatMul":
        return this.#linear(node, false);
      case "Gemm": {
        const { attributes } = node;
        const isPlain = (floatOf(attributes, "alpha") ?? 1) === 1 && (floatOf(attributes, "beta") ?? 1) === 1;
        if (!isPlain || intOf(attributes, "transA")) return undefined;
        return this.#linear(node, intOf(attributes, "transB") === 1);
      }
      case "Gather": {
        const [table = "", ids = ""] = node.inputs;
        const weight = this.#weight(table);
        if (!weight || weight.transposed || this.#constant(ids) || (intOf(node.attributes, "axis") ?? 0) !== 0) {
          return undefined;
        }
        return layer(node, "Embedding", [weight.node.outputs[0], ids]);
      }
      case "SoftmaxCrossEntropyLoss": {
        const [loss = "", logProb = ""] = node.outputs;
        if (this.#consumers.has(logProb)) return undefined;
        if (logProb !== "") this.dropped.push(logProb);
        return { ...layer(node, "CrossEntropyLoss", node.inputs, node.attributes), outputs: [loss] };
      }
      default:
        return undefined;
    }
  }

  #linear(node: Call, transB: boolean): Call | undefined {
    const [x = "", w = "", b = ""] = node.inputs;
    const weight = this.#weight(w);
    if (!weight || this.#constant(x)) return undefined;
    const isTransposed = transB !== weight.transposed;
    const inputs = [x, weight.node.outputs[0]];
    if (b !== "") {
      const bias = this.#bias(b, weight.node.data.shape[isTransposed ? 0 : 1]!);
      if (bias === undefined) return undefined;
      inputs.push(bias);
    }
    return layer(node, "Linear", inputs, isTransposed ? { transB: int(1) } : {});
  }

  /** The Add that alone reads a product, and the bias that it adds. */
  #biasOf(layer: Call): { readonly node: Call; readonly bias: string } | undefined {
    const product = layer.outputs[0]!;
    const [reader, ...others] = this.#consumers.get(product) ?? [];
    if (!reader || others.length > 0 || !isCall(reader) || opKey(reader) !== "Add") return undefined;
    const operand = reader.inputs.find((name) => name !== product);
    const size = valueOf(this.#graph, layer.inputs[1]!).type.shape![intOf(layer.attributes, "transB") ? 0 : 1];
    const bias = operand === undefined ? undefined : this.#bias(operand, size as number);
    return bias === undefined ? undefined : { node: reader, bias };
  }

  #bias(name: string, size: number): string | undefined {
    const constant = this.#constant(name);
    const shape = constant?.node.data.shape;
    return shape?.length === 1 && shape[0] === size && !constant!.transposed ? constant!.node.outputs[0] : undefined;
  }

  #weight(name: string): Weight | undefined {
    const constant = this.#constant(name);
    if (!constant) return undefined;
    const { dtype, shape } = constant.node.data;
    const { float, bits } = dtypeInfo(dtype);
    return shape.length === 2 && float && bits >= 16 ? constant : undefined;
  }

  /** The constant that `name` is, through Identity and transposition of two dims. */
  #constant(name: string): Weight | undefined {
    let transposed = false;
    let node = this.#producers.get(name);
    while (node) {
      if (node.kind === "get_attr") return { node, transposed };
      if (!isCall(node)) return undefined;
      if (opKey(node) === "Transpose" && isSwap(node, valueOf(this.#graph, node.inputs[0]!).type.shape?.length)) {
        transposed = !transposed;
      } else if (opKey(node) !== "Identity") return undefined;
      node = this.#producers.get(node.inputs[0] ?? "");
    }
    return undefined;
  }
}

function isSwap(node: Call, ndim: number | undefined): boolean {
  const perm = intsOf(node.attributes, "perm");
  return ndim === 2 && (perm === undefined || (perm[0] === 1 && perm[1] === 0));
}

function layer(node: Call, op: string, inputs: readonly string[], attributes: Attributes = {}): Call {
  return { ...node, kind: "call_module", domain: "shardwise", op, inputs, attributes };
}
