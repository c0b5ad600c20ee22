/**
 * Infers the types of all values, the contents of small integer tensors, and which graph inputs carry a state.
 *
 * Sizes are polynomials over the symbols of the graph's inputs; a size that only data decides is a symbol with `#`.
 * Works on a graph of any stage: on a local graph it checks what a pass has emitted.
 */
import { type Dim, dimEquals, symbol, symbolsOf } from "../core/dim.ts";
import { type DType, dtypeInfo } from "../core/dtype.ts";
import { ShapeError } from "../core/errors.ts";
import {
  type Call,
  type Carried,
  type Graph,
  isCall,
  type Node,
  outputOf,
  producers,
  type Stage,
  type TensorData,
  type Value,
  valueOf,
} from "../graph/graph.ts";
import type { KnownInts, Shape, TensorType } from "../graph/types.ts";
import type { Inferred } from "../ops/def.ts";
import { isIntegral, known, MAX_KNOWN } from "../ops/known_ints.ts";
import { opDef } from "../ops/table.ts";

/** The graph with types inferred. @throws {ShapeError} Naming the node whose inputs do not fit. */
export function inferTypes<S extends Stage>(graph: Graph<S>): Graph<S> {
  const values = new Map<string, Value>();
  const inputSymbols = new Set<string>();
  let count = 0;
  const fresh = (label: string) => symbol(`${label}#${count++}`);
  for (const node of graph.nodes) {
    for (const value of nodeValues(graph, node, { values, fresh, inputSymbols })) values.set(value.name, value);
    if (node.kind === "placeholder") {
      for (const d of valueOf(graph, node.outputs[0]).type.shape ?? []) {
        symbolsOf(d, inputSymbols);
      }
    }
  }
  const typed = { ...graph, values };
  return { ...typed, carried: graph.carried.length > 0 ? graph.carried : carriedStates(typed) };
}

interface Scope {
  readonly values: ReadonlyMap<string, Value>;
  readonly fresh: (label: string) => Dim;
  readonly inputSymbols: ReadonlySet<string>;
}

function nodeValues(graph: Graph, node: Node, scope: Scope): Value[] {
  const before = node.outputs.flatMap((name) => (name === "" ? [] : [valueOf(graph, name)]));
  if (node.kind === "get_attr") {
    const ints = dataInts(node.data);
    return before.map((v) => ({
      ...v,
      type: { dtype: node.data.dtype, shape: v.type.shape ?? node.data.shape },
      ...(ints ? { ints } : {}),
    }));
  }
  if (!isCall(node)) return before;
  const inferred = inferCall(graph, node, scope);
  if (!inferred) return before;
  return node.outputs.flatMap((name, i): Value[] => {
    if (name === "") return [];
    const value = valueOf(graph, name);
    const found: Inferred | undefined = inferred[i];
    const ints = found?.ints ?? value.ints;
    return [{ ...value, type: mergeTypes(found, value.type, scope.inputSymbols), ...(ints ? { ints } : {}) }];
  });
}

function inferCall(graph: Graph, node: Call, scope: Scope): readonly Inferred[] | undefined {
  const definition = opDef(node);
  if (!definition) return undefined;
  const inputs = node.inputs.map((name) => (name === "" ? undefined : scope.values.get(name) ?? valueOf(graph, name)));
  try {
    return definition.infer({
      node,
      attributes: node.attributes,
      opset: graph.opsets.get(node.domain) ?? definition.since,
      inputs: inputs.map((v) => v?.type),
      ints: inputs.map((v) => v?.ints),
      outputCount: node.outputs.length,
      fresh: scope.fresh,
    });
  } catch (error) {
    if (!(error instanceof ShapeError)) throw error;
    throw new ShapeError(`Cannot infer the type of ${node.op} "${node.name}": ${error.message}`, {
      cause: error,
      ...(error.hint ? { hint: error.hint } : {}),
    });
  }
}

/** What inference found, completed by what was known before: a number beats a symbol, a symbol beats `#`. */
function mergeTypes(found: TensorType | undefined, before: TensorType, inputSymbols: ReadonlySet<string>): TensorType {
  const dtype = found?.dtype ?? before.dtype;
  if (!found?.shape) return { dtype, shape: before.shape };
  if (!before.shape || before.shape.length !== found.shape.length) return { dtype, shape: found.shape };
  const shape: Shape = found.shape.map((d, i) => mergeDims(d, before.shape![i]!, inputSymbols));
  return { dtype, shape };
}

function mergeDims(found: Dim, before: Dim, inputSymbols: ReadonlySet<string>): Dim {
  if (typeof found === "number" || dimEquals(found, before)) return found;
  if (typeof before === "number") return before;
  const open = [...symbolsOf(found)].some((s) => s.includes("#"));
  return open && [...symbolsOf(before)].every((s) => inputSymbols.has(s)) ? before : found;
}

/** The content of a small constant of integers. Bounds that mean "to the end" stay exact as doubles. */
function dataInts(data: TensorData): KnownInts | undefined {
  const count = data.shape.reduce((a, b) => a * b, 1);
  // Small integers are quantised weights and their zero points, never sizes.
  const isSize = isIntegral(data.dtype) && (dtypeInfo(data.dtype).bits >= 32 || data.dtype === "bool");
  if (!isSize || count > MAX_KNOWN || data.shape.length > 2) return undefined;
  return known(data.shape, count === 0 ? [] : readIntegers(data.bytes(), data.dtype, count));
}

const READERS: Partial<Record<DType, (view: DataView, at: number) => number | bigint>> = {
  i64: (v, at) => v.getBigInt64(at, true),
  u64: (v, at) => v.getBigUint64(at, true),
  i32: (v, at) => v.getInt32(at, true),
  u32: (v, at) => v.getUint32(at, true),
  bool: (v, at) => v.getUint8(at),
};

function readIntegers(bytes: Uint8Array, dtype: DType, count: number): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const read = READERS[dtype]!, width = dtypeInfo(dtype).bits / 8;
  const far = Number.MAX_SAFE_INTEGER;
  return Array.from({ length: count }, (_, i) => Math.max(-far, Math.min(far, Number(read(view, i * width)))));
}

/** The states that definitions say are carried: from a graph input to a graph output. */
function carriedStates(graph: Graph): Carried[] {
  const byName = producers(graph);
  const results = outputOf(graph).inputs.map((name) => aliasOf(name, byName));
  const out: Carried[] = [];
  for (const node of graph.nodes) {
    if (!isCall(node)) continue;
    const value = (name: string) => (name === "" ? undefined : graph.values.get(name));
    const pairs = opDef(node)?.carries?.({
      node,
      attributes: node.attributes,
      opset: graph.opsets.get(node.domain) ?? 1,
      inputs: node.inputs.map((n) => value(n)?.type),
      ints: node.inputs.map((n) => value(n)?.ints),
      outputs: node.outputs.map((n) => value(n)?.type),
    });
    for (const [from, to] of pairs ?? []) {
      const input = node.inputs[from], result = node.outputs[to];
      if (!input || !result || byName.get(input)?.kind !== "placeholder") continue;
      const output = results.indexOf(result);
      if (output >= 0 && !out.some((c) => c.input === input)) out.push({ input, output });
    }
  }
  return out;
}

/** The value that a chain of Identity nodes copies. */
function aliasOf(name: string, byName: ReadonlyMap<string, Node>): string {
  for (let current = name;;) {
    const node = byName.get(current);
    if (!node || !isCall(node) || node.op !== "Identity" || node.domain !== "") return current;
    current = node.inputs[0]!;
  }
}
