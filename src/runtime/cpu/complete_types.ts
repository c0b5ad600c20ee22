/**
 * Element types that inference does not know: those that ops without a description give, and what is made of them.
 *
 * Between two segments a value needs one, as a session takes no input of an open type. The engine knows its ops: it is asked with a
 * model of that op alone.
 */
import type { DType } from "../../core/dtype.ts";
import { EngineError } from "../../core/errors.ts";
import { exportOnnx } from "../../formats/export_onnx.ts";
import { GraphBuilder } from "../../graph/builder.ts";
import { type Call, type Graph, isCall, producers, readsOf, type Value, valueOf } from "../../graph/graph.ts";
import type { Engine } from "./engine.ts";

/** Constants with more elements are not shown to the engine, only their types. */
const FEW_ELEMENTS = 1024;

/** `graph` with the element types that `engine` knows; others stay open. */
export async function completeTypes(graph: Graph<"local">, engine: Engine): Promise<Graph<"local">> {
  const isOpen = (name: string) => name !== "" && valueOf(graph, name).type.dtype === undefined;
  if (!graph.nodes.some((n) => n.outputs.some(isOpen))) return graph;
  const values = new Map(graph.values), typed = { ...graph, values };
  const set = (name: string | undefined, dtype: DType | undefined) => {
    if (!name || !dtype || !isOpen(name)) return;
    const value = values.get(name)!;
    values.set(name, { ...value, type: { ...value.type, dtype } });
  };
  for (const node of graph.nodes) {
    if (!node.outputs.some(isOpen)) continue;
    if (node.kind === "collective") set(node.outputs[0], values.get(node.inputs[0])!.type.dtype);
    else if (isCall(node)) {
      const types = await typesOf(typed, node, engine);
      node.outputs.filter((name) => name !== "").forEach((name, i) => set(name, types[i]));
    }
  }
  return typed;
}

/** What the engine says of the outputs that `node` has; nothing where it cannot. */
async function typesOf(
  graph: Graph<"local">,
  node: Call,
  engine: Engine,
): Promise<readonly (DType | undefined)[]> {
  const byName = producers(graph), reads = new Set(readsOf(node).filter((name) => name !== ""));
  const builder = new GraphBuilder("local", "types", graph.opsets);
  for (const name of reads) {
    const value = valueOf(graph, name), from = byName.get(name);
    if (value.type.dtype === undefined) return [];
    const isFew = from?.kind === "get_attr" && from.data.shape.reduce((a, b) => a * b, 1) <= FEW_ELEMENTS;
    if (isFew) builder.getAttr(name, from.data);
    else builder.placeholder(value);
  }
  const outputs = node.outputs.filter((name) => name !== "");
  builder.call(node, outputs.map((name): Value => valueOf(graph, name)));
  const bytes = exportOnnx(builder.finish({ inputs: outputs, names: outputs }));
  try {
    const session = await engine.createSession(bytes, { threads: 1 });
    const types = session.outputTypes();
    await session.release();
    return types;
  } catch (error) {
    // Whoever compiles the op in its place says what is wrong.
    if (error instanceof EngineError) return [];
    throw error;
  }
}
