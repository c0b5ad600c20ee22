/**
 * Sessions that two programs of one rank share: a program with fused ops and the one with plain ops that takes its place at some
 * sizes differ only in the segments that have such ops. A session holds its weights, packed, so that most are in memory once.
 *
 * Both programs come from one sharded graph: constants of one name hold the same data.
 */
import { type Graph, isCall, opKey, outputOf } from "../../graph/graph.ts";
import { printType } from "../../graph/types.ts";
import type { EngineSession } from "./engine.ts";

/** Constants with more elements are told by their names. */
const FEW_ELEMENTS = 1024;

/** The sessions of a program, by what their segments compute. */
export class SharedSessions {
  readonly #sessions = new Map<string, EngineSession>();

  /** The session of an equal segment. */
  get(key: string | undefined): EngineSession | undefined {
    return key === undefined ? undefined : this.#sessions.get(key);
  }

  /** Offers a session to programs that are compiled later. */
  set(key: string | undefined, session: EngineSession): void {
    if (key !== undefined) this.#sessions.set(key, session);
  }
}

/**
 * What the graph of a segment computes, and how its inputs and outputs are called: equal for graphs that differ in the names of
 * nodes and of values within. Undefined where an attribute is a graph.
 */
export function segmentKey(graph: Graph<"local">): string | undefined {
  const numbers = new Map<string, string>();
  const results = new Set(outputOf(graph).inputs), lines: string[] = [];
  const named = (name: string) => (name === "" ? "" : numbers.get(name) ?? `?${name}`);
  const define = (names: readonly string[]) => {
    for (const name of names) if (name !== "") numbers.set(name, results.has(name) ? `=${name}` : `%${numbers.size}`);
    return names.map(named).join();
  };
  for (const node of graph.nodes) {
    if (node.kind === "placeholder") {
      const [name] = node.outputs;
      numbers.set(name, `@${name}`);
      lines.push(`@${name} ${printType(graph.values.get(name)!.type)}`);
    } else if (node.kind === "get_attr") {
      const { data, outputs: [name] } = node, few = data.shape.reduce((a, b) => a * b, 1) <= FEW_ELEMENTS;
      lines.push(`${define([name])}=${data.dtype}[${data.shape}]${few ? data.bytes().toHex() : name}`);
    } else if (isCall(node)) {
      if (node.captures?.length) return undefined;
      let text = "";
      for (const [attribute, { kind, value }] of Object.entries(node.attributes)) {
        if (kind === "graph") return undefined;
        text += kind === "tensor"
          ? `${attribute}=${value.dtype}[${value.shape}]${value.bytes().toHex()};`
          : `${attribute}=${kind}:${JSON.stringify(value)};`;
      }
      const inputs = node.inputs.map(named).join();
      lines.push(`${define(node.outputs)}=${opKey(node)}(${inputs}){${text}}`);
    } else lines.push(`${node.kind}(${node.inputs.map(named).join()})`);
  }
  return lines.join("\n");
}
