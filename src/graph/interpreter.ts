/**
 * Walks a graph node by node: the base of everything that runs a graph as it stands (FX's Interpreter).
 *
 * A subclass says what a constant and a call are worth; the walk feeds them, frees values after their last reader, and
 * tells which node failed.
 */
import { GraphError, InputError, ShardwiseError } from "../core/errors.ts";
import { didYouMean } from "../core/suggest.ts";
import {
  type Call,
  type Collective,
  type GetAttr,
  type Graph,
  type Node,
  type Output,
  type Placeholder,
  readsOf,
} from "./graph.ts";
import { printNode } from "./text.ts";

/** What a node reads: its inputs by position (undefined where left out), and the captures of its subgraphs by name. */
export interface Reads<T> {
  readonly inputs: readonly (T | undefined)[];
  readonly captures: ReadonlyMap<string, T>;
}

/** Runs graphs over values of type `T`. Override one method per node kind. */
export abstract class Interpreter<T> {
  readonly graph: Graph;
  readonly #lastReads: ReadonlyMap<Node, readonly string[]>;

  constructor(graph: Graph) {
    this.graph = graph;
    this.#lastReads = lastReads(graph);
  }

  /**
   * The results by name, for inputs by name. `scope` holds the values of enclosing graphs that this one reads.
   *
   * @throws {InputError} If an input is missing or unknown.
   * @throws {GraphError} If a node fails: `While executing %h = MatMul(%x, %w): …`, with the cause.
   */
  run(inputs: ReadonlyMap<string, T>, scope: ReadonlyMap<string, T> = new Map()): Map<string, T> {
    this.#checkInputs(inputs);
    const values = new Map<string, T>(scope);
    const read = (name: string): T => {
      const value = values.get(name);
      if (value === undefined) throw new GraphError(`%${name} has no value`);
      return value;
    };
    for (const node of this.graph.nodes) {
      try {
        if (node.kind === "output") return this.output(node, node.inputs.map(read));
        const results = this.#node(node, inputs, read);
        node.outputs.forEach((name, i) => {
          const value = results[i];
          if (name !== "" && value !== undefined) values.set(name, value);
        });
      } catch (cause) {
        if (cause instanceof InputError) throw cause;
        const message = cause instanceof Error ? cause.message : String(cause);
        const hint = cause instanceof ShardwiseError ? cause.hint : undefined;
        throw new GraphError(`While executing ${printNode(this.graph, node)}: ${message}`, {
          cause,
          ...(hint === undefined ? {} : { hint }),
        });
      }
      for (const name of this.#lastReads.get(node) ?? []) values.delete(name);
    }
    throw new GraphError(`Cannot run graph "${this.graph.name}": it has no output node`);
  }

  /** The value of an input. */
  placeholder(_node: Placeholder, input: T): T {
    return input;
  }

  /** The value of a constant. */
  abstract getAttr(node: GetAttr): T;

  /** The outputs of an op, by position; undefined where the node leaves them out. */
  abstract callFunction(node: Call, reads: Reads<T>): readonly (T | undefined)[];

  /** The outputs of a layer; those of an op by default. */
  callModule(node: Call, reads: Reads<T>): readonly (T | undefined)[] {
    return this.callFunction(node, reads);
  }

  /** The value after a collective. A graph of one rank has none, so by default they are refused. */
  collective(node: Collective, _input: T): T {
    throw new GraphError(`${node.collective} needs the other ranks`, { hint: "override collective()" });
  }

  /** The results by name. */
  output(node: Output, results: readonly T[]): Map<string, T> {
    return new Map(node.names.map((name, i) => [name, results[i]!]));
  }

  #node(
    node: Exclude<Node, Output>,
    inputs: ReadonlyMap<string, T>,
    read: (name: string) => T,
  ): readonly (T | undefined)[] {
    switch (node.kind) {
      case "placeholder":
        return [this.placeholder(node, inputs.get(node.outputs[0])!)];
      case "get_attr":
        return [this.getAttr(node)];
      case "collective":
        return [this.collective(node, read(node.inputs[0]))];
      case "call_function":
      case "call_module": {
        const reads = {
          inputs: node.inputs.map((name) => (name === "" ? undefined : read(name))),
          captures: new Map((node.captures ?? []).map((name) => [name, read(name)])),
        };
        return node.kind === "call_module" ? this.callModule(node, reads) : this.callFunction(node, reads);
      }
    }
  }

  #checkInputs(inputs: ReadonlyMap<string, T>): void {
    const names = this.graph.nodes.flatMap((n) => (n.kind === "placeholder" ? [n.outputs[0]] : []));
    const missing = names.filter((name) => !inputs.has(name));
    if (missing.length > 0) {
      throw new InputError(`Cannot run graph "${this.graph.name}": no value for input ${missing.join(", ")}`, {
        hint: `it takes ${names.join(", ")}`,
      });
    }
    for (const name of inputs.keys()) {
      if (names.includes(name)) continue;
      throw new InputError(
        `Cannot run graph "${this.graph.name}": it has no input "${name}"${didYouMean(name, names)}`,
      );
    }
  }
}

/** For every node, the values that no later node reads. */
function lastReads(graph: Graph): Map<Node, string[]> {
  const seen = new Set<string>();
  const out = new Map<Node, string[]>();
  for (const node of graph.nodes.toReversed()) {
    const last = [...new Set([...readsOf(node), ...node.outputs])].filter((name) => !seen.has(name));
    for (const name of last) seen.add(name);
    out.set(node, last);
  }
  return out;
}
