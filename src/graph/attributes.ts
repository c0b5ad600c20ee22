/** Reading and writing node attributes. */
import { GraphError } from "../core/errors.ts";
import type { Attribute, Attributes, Graph, TensorData } from "./graph.ts";

interface Values {
  int: number;
  float: number;
  string: string;
  ints: readonly number[];
  tensor: TensorData;
}

function read<K extends keyof Values>(attributes: Attributes, name: string, kind: K): Values[K] | undefined {
  const attribute = attributes[name];
  if (attribute === undefined) return undefined;
  if (attribute.kind !== kind) {
    throw new GraphError(`Cannot read attribute "${name}" as ${kind}: it is of kind ${attribute.kind}`);
  }
  return attribute.value as Values[K];
}

/** An int attribute, or undefined where it is absent. @throws {GraphError} If it is of another kind. */
export function intOf(attributes: Attributes, name: string): number | undefined {
  return read(attributes, name, "int");
}

/** A float attribute, or undefined where it is absent. */
export function floatOf(attributes: Attributes, name: string): number | undefined {
  return read(attributes, name, "float");
}

/** A string attribute, or undefined where it is absent. */
export function stringOf(attributes: Attributes, name: string): string | undefined {
  return read(attributes, name, "string");
}

/** A list of ints, or undefined where it is absent. */
export function intsOf(attributes: Attributes, name: string): readonly number[] | undefined {
  return read(attributes, name, "ints");
}

/** A tensor attribute, or undefined where it is absent. */
export function tensorOf(attributes: Attributes, name: string): TensorData | undefined {
  return read(attributes, name, "tensor");
}

/** All subgraphs among the attributes. */
export function subgraphsOf(attributes: Attributes): readonly Graph<"global">[] {
  return Object.values(attributes).flatMap((a) => (a.kind === "graph" ? [a.value] : []));
}

/** An int attribute. */
export function int(value: number): Attribute {
  return { kind: "int", value };
}

/** A float attribute. */
export function float(value: number): Attribute {
  return { kind: "float", value };
}

/** A string attribute. */
export function string(value: string): Attribute {
  return { kind: "string", value };
}

/** A list of ints. */
export function ints(value: readonly number[]): Attribute {
  return { kind: "ints", value };
}

/** A tensor attribute. */
export function tensor(value: TensorData): Attribute {
  return { kind: "tensor", value };
}
