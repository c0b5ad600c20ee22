/** Looking at a graph from a node upwards: what rules match with. */
import { type Dim, dimAdd, dimEquals } from "../../core/dim.ts";
import { toNumbers } from "../../core/host_tensor.ts";
import { type DType, dtypeInfo } from "../../core/dtype.ts";
import { intOf, intsOf } from "../../graph/attributes.ts";
import {
  type Call,
  consumers,
  type GetAttr,
  type Graph,
  isCall,
  type Node,
  opKey,
  outputOf,
  producers,
  type Stage,
  type TensorData,
  type Value,
  valueOf,
} from "../../graph/graph.ts";
import type { Shape } from "../../graph/types.ts";
import { constantInts } from "../../ops/known_ints.ts";

/** A call of two operands of which one is a constant number. */
export interface WithScalar {
  readonly call: Call;
  /** The other operand. */
  readonly operand: string;
  readonly scalar: number;
  /** Position of the constant. */
  readonly position: 0 | 1;
}

/** The dtypes in which fused ops compute on every engine; in 16 bits they round less often than what they stand for. */
export const FUSED_DTYPES = ["f32", "f16"] as const;

/** One of {@linkcode FUSED_DTYPES}. */
export type FusedDType = (typeof FUSED_DTYPES)[number];

/** Whether a dtype is one of {@linkcode FUSED_DTYPES}. */
export function isFused(dtype: DType | undefined): dtype is FusedDType {
  return FUSED_DTYPES.some((d) => d === dtype);
}

/** Questions about one graph. */
export class Matcher<S extends Stage = Stage> {
  readonly graph: Graph<S>;
  readonly #producers: ReadonlyMap<string, Node>;
  readonly #consumers: ReadonlyMap<string, readonly Node[]>;
  readonly #results: ReadonlySet<string>;
  #positions: ReadonlyMap<string, number> | undefined;

  constructor(graph: Graph<S>) {
    this.graph = graph;
    this.#producers = producers(graph);
    this.#consumers = consumers(graph);
    this.#results = new Set(outputOf(graph).inputs);
  }

  /** Version of ai.onnx. */
  get opset(): number {
    return this.graph.opsets.get("") ?? 17;
  }

  value(name: string): Value {
    return valueOf(this.graph, name);
  }

  shape(name: string): Shape | undefined {
    return this.value(name).type.shape;
  }

  /** Whether the value is a result of the graph. */
  isResult(name: string): boolean {
    return this.#results.has(name);
  }

  /** Whether the value is an input of the graph. */
  isPlaceholder(name: string): boolean {
    return this.#producers.get(name)?.kind === "placeholder";
  }

  /** The call that writes `name`, if it is one of these ops. */
  call(name: string, ...ops: readonly string[]): Call | undefined {
    const node = this.#producers.get(name);
    return node && isCall(node) && ops.includes(opKey(node)) ? node : undefined;
  }

  /** The nodes that read `name`. */
  readers(name: string): readonly Node[] {
    return this.#consumers.get(name) ?? [];
  }

  /** Where in the order of the graph a node stands. */
  position(node: Node): number {
    this.#positions ??= new Map(this.graph.nodes.map((n, i) => [n.name, i]));
    return this.#positions.get(node.name)!;
  }

  /** The one call that reads `name`, if nothing else does and it is no result. */
  onlyReader(name: string): Call | undefined {
    const [reader, ...others] = this.readers(name);
    return reader && isCall(reader) && others.length === 0 && !this.isResult(name) ? reader : undefined;
  }

  /** The constant called `name`. */
  constant(name: string): GetAttr | undefined {
    const node = this.#producers.get(name);
    return node?.kind === "get_attr" ? node : undefined;
  }

  /** The number that a float constant of one element holds. */
  scalar(name: string): number | undefined {
    const data = this.constant(name)?.data;
    return data && this.numberOf(data);
  }

  /** The number that a float tensor of one element is. */
  numberOf(data: TensorData): number | undefined {
    if (data.shape.some((d) => d !== 1) || !dtypeInfo(data.dtype).float) return undefined;
    const { array: ArrayOf, bits } = dtypeInfo(data.dtype);
    if (!ArrayOf || bits < 16) return undefined;
    const bytes = data.bytes().slice();
    return toNumbers({ dtype: data.dtype, shape: [1], data: new ArrayOf(bytes.buffer as ArrayBuffer, 0, 1) })[0];
  }

  /** The content of a constant or known integer tensor, where it has no symbol. */
  ints(name: string): readonly number[] | undefined {
    return name === "" ? undefined : constantInts(this.value(name).ints);
  }

  /** The elements of a known integer tensor, symbols and all. */
  sizes(name: string): readonly Dim[] | undefined {
    return name === "" ? undefined : this.value(name).ints?.elements;
  }

  /** A call of one of `ops` with a constant number and another operand. Div takes the constant second only. */
  withScalar(name: string, ...ops: readonly string[]): WithScalar | undefined {
    const call = this.call(name, ...ops);
    if (!call) return undefined;
    for (const position of [1, 0] as const) {
      if (position === 0 && (call.op === "Div" || call.op === "Sub" || call.op === "Pow")) break;
      const scalar = this.scalar(call.inputs[position]!);
      if (scalar !== undefined) return { call, operand: call.inputs[1 - position]!, scalar, position };
    }
    return undefined;
  }

  /** Transpose's input, where its permutation is `perm`. */
  transposed(name: string, perm: readonly number[]): string | undefined {
    const call = this.call(name, "Transpose");
    const found = call && intsOf(call.attributes, "perm");
    return found && found.length === perm.length && found.every((p, i) => p === perm[i]) ? call!.inputs[0] : undefined;
  }

  /** Whether two dims are one size, or are known to be the same symbol. */
  sameDim(a: Dim | undefined, b: Dim | undefined): boolean {
    return a !== undefined && b !== undefined && dimEquals(a, b);
  }

  /** Slice's input and its bounds along one dim, where these are known, and the step is `by`. */
  slice(
    name: string,
    by = 1,
  ): { readonly input: string; readonly dim: number; readonly from: Dim; readonly to: Dim } | undefined {
    const call = this.call(name, "Slice");
    if (!call) return undefined;
    const [input = "", starts = "", ends = "", axes = "", steps = ""] = call.inputs;
    const from = this.sizes(starts), to = this.sizes(ends), axis = this.ints(axes);
    const step = steps === "" ? [1] : this.ints(steps);
    const ndim = this.shape(input)?.length;
    if (from?.length !== 1 || to?.length !== 1 || axis?.length !== 1 || step?.[0] !== by || ndim === undefined) {
      return undefined;
    }
    return { input, dim: axis[0]! < 0 ? axis[0]! + ndim : axis[0]!, from: from[0]!, to: to[0]! };
  }

  /** Whether an integer tensor is `start`, `start + 1`, … along one dim of `length`, and has no other: a Range, or one plus a size. */
  counts(
    name: string,
    { fromRight, start, length }: { readonly fromRight: number; readonly start: Dim; readonly length: Dim },
  ): boolean {
    const shape = this.shape(name);
    const isAlone = shape?.every((d, i) => i === shape.length - fromRight ? dimEquals(d, length) : d === 1);
    if (!isAlone || shape!.length < fromRight) return false;
    let source = name, offset: Dim = 0;
    for (;;) {
      const call = this.call(source, "Unsqueeze", "Reshape", "Cast", "Add");
      if (!call) break;
      if (call.op === "Add") {
        const position = call.inputs.findIndex((input) => this.sizes(input)?.length === 1);
        if (position < 0) break;
        offset = dimAdd(offset, this.sizes(call.inputs[position]!)![0]!);
        source = call.inputs[1 - position]!;
      } else source = call.inputs[0]!;
    }
    const range = this.call(source, "Range");
    if (!range || this.value(source).type.dtype !== this.value(name).type.dtype) return false;
    const [first] = this.sizes(range.inputs[0]!) ?? [], step = this.ints(range.inputs[2]!);
    return first !== undefined && this.sameDim(dimAdd(first, offset), start) && step?.[0] === 1;
  }

  /** The dim along which Concat joins, never negative. */
  concatDim(call: Call): number | undefined {
    const ndim = this.shape(call.outputs[0]!)?.length, axis = intOf(call.attributes, "axis");
    if (ndim === undefined || axis === undefined) return undefined;
    return axis < 0 ? axis + ndim : axis;
  }
}
