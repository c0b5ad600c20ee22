/** Building graphs: appends nodes in order and keeps names unique. */
import { byteLength, type DType, dtypeInfo, type TypedArray } from "../core/dtype.ts";
import { GraphError } from "../core/errors.ts";
import type {
  Call,
  Carried,
  Collective,
  GetAttr,
  Graph,
  Node,
  Output,
  Placeholder,
  Stage,
  TensorData,
  Value,
} from "./graph.ts";

/** A graph under construction. */
export class GraphBuilder<S extends Stage> {
  readonly #stage: S;
  readonly #name: string;
  readonly #nodes: Node[] = [];
  readonly #values = new Map<string, Value>();
  // The output node's name is fixed, so no other node may take it.
  readonly #nodeNames = new Set<string>(["output"]);
  readonly #counters = new Map<string, number>();
  readonly #opsets: Map<string, number>;

  /** An empty graph; `opsets` are the versions of the ONNX domains that its nodes follow. */
  constructor(stage: S, name: string, opsets: ReadonlyMap<string, number>) {
    this.#stage = stage;
    this.#name = name;
    this.#opsets = new Map(opsets);
  }

  /** A name that no value has yet: `stem`, or `stem_2`, `stem_3`, … */
  freshValue(stem: string): string {
    return this.#fresh(stem, this.#values);
  }

  /** A name that no node has yet. */
  freshNode(stem: string): string {
    return this.#fresh(stem, this.#nodeNames);
  }

  /** A name that no node has yet, from now on taken. One look-up tells whether it is new. */
  #claim(stem: string): string {
    const names = this.#nodeNames;
    if (names.size !== names.add(stem).size) return stem;
    const name = this.#fresh(stem, names);
    names.add(name);
    return name;
  }

  #fresh(stem: string, taken: { has(name: string): boolean }): string {
    if (!taken.has(stem)) return stem;
    let i = this.#counters.get(stem) ?? 2;
    while (taken.has(`${stem}_${i}`)) i++;
    this.#counters.set(stem, i + 1);
    return `${stem}_${i}`;
  }

  /** The value called `name`, if it has been made. */
  value(name: string): Value | undefined {
    return this.#values.get(name);
  }

  /** The version of an ONNX domain, set at need. */
  requireDomain(domain: string, version: number): void {
    if (!this.#opsets.has(domain)) this.#opsets.set(domain, version);
  }

  /** Appends any node; its outputs become values with the given types, in order. */
  append(node: Node, values: readonly Value[]): void {
    const names = this.#nodeNames;
    if (names.size === names.add(node.name).size && node.kind !== "output") {
      throw new GraphError(`Cannot add a second node called "${node.name}"`);
    }
    this.#push(node, values);
  }

  /** Appends a node whose name has been claimed. */
  #push(node: Node, values: readonly Value[]): void {
    this.#nodes.push(node);
    for (const value of values) {
      if (this.#values.size === this.#values.set(value.name, value).size) {
        throw new GraphError(`Cannot write value "${value.name}" twice`);
      }
    }
  }

  /** Appends a graph input. */
  placeholder(value: Value): Placeholder {
    const node: Placeholder = { kind: "placeholder", name: this.#claim(value.name), outputs: [value.name] };
    this.#push(node, [value]);
    return node;
  }

  /** Constant data as a value. The type is the data's unless given. */
  getAttr(name: string, data: TensorData, details: Partial<Omit<Value, "name">> = {}): GetAttr {
    const node: GetAttr = { kind: "get_attr", name: this.#claim(name), outputs: [name], data };
    this.#push(node, [{ type: { dtype: data.dtype, shape: data.shape }, ...details, name }]);
    return node;
  }

  /** Appends a call of an op or layer. Its name is made unique. */
  call(node: Omit<Call, "name"> & { name?: string }, values: readonly Value[]): Call {
    const full: Call = { ...node, name: this.#claim(node.name ?? node.op) };
    this.#push(full, values);
    return full;
  }

  /** Appends a change of placement. Its name is made unique. */
  collective(node: Omit<Collective, "kind" | "name">, value: Value): Collective {
    const full: Collective = { kind: "collective", name: this.#claim(node.collective), ...node };
    this.#push(full, [value]);
    return full;
  }

  /** Ends the graph. */
  finish(output: Pick<Output, "inputs" | "names">, carried: readonly Carried[] = []): Graph<S> {
    this.append({ kind: "output", name: "output", outputs: [], inputs: output.inputs, names: output.names }, []);
    return {
      stage: this.#stage,
      name: this.#name,
      nodes: this.#nodes,
      values: this.#values,
      opsets: this.#opsets,
      carried,
    };
  }
}

/** A tensor in memory as constant data. */
export function inlineData(dtype: DType, shape: readonly number[], data: TypedArray | Uint8Array): TensorData {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const count = shape.reduce((a, b) => a * b, 1);
  if (bytes.length !== byteLength(dtype, count)) {
    throw new GraphError(
      `Cannot hold ${bytes.length} bytes as ${dtype}[${shape}]: it takes ${byteLength(dtype, count)}`,
    );
  }
  return {
    dtype,
    shape,
    bytes: () => bytes,
    slice: (dim, ranges) => sliceBytes(bytes, dtype, shape, { dim, ranges }),
  };
}

/** The bytes of a tensor that keeps index ranges of one dim. @throws {GraphError} For packed types cut inside a byte. */
export function sliceBytes(
  bytes: Uint8Array,
  dtype: DType,
  shape: readonly number[],
  cut: { readonly dim: number; readonly ranges: readonly (readonly [number, number])[] },
): Uint8Array {
  const outer = shape.slice(0, cut.dim).reduce((a, b) => a * b, 1);
  const innerBits = shape.slice(cut.dim + 1).reduce((a, b) => a * b, 1) * dtypeInfo(dtype).bits;
  const rowBits = innerBits * shape[cut.dim]!;
  const kept = cut.ranges.reduce((n, [a, b]) => n + b - a, 0);
  const bits = [rowBits, ...cut.ranges.flatMap(([a, b]) => [a * innerBits, b * innerBits])];
  if (outer > 1 ? bits.some((b) => b % 8 !== 0) : bits.slice(1).some((b) => b % 8 !== 0 && b !== rowBits)) {
    throw new GraphError(`Cannot cut ${dtype}[${shape}] along dim ${cut.dim}: a border lies inside a byte`);
  }
  const out = new Uint8Array(Math.ceil((outer * kept * innerBits) / 8));
  let to = 0;
  for (let o = 0; o < outer; o++) {
    for (const [a, b] of cut.ranges) {
      const piece = bytes.subarray(
        Math.floor((o * rowBits + a * innerBits) / 8),
        Math.ceil((o * rowBits + b * innerBits) / 8),
      );
      out.set(piece, to);
      to += piece.length;
    }
  }
  return out;
}
