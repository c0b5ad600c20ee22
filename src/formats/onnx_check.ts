/**
 * What must hold of a decoded model before anything walks it: versions that we know, and in every graph names that are defined once,
 * before they are used.
 */
import { FormatError } from "../core/errors.ts";
import { didYouMean } from "../core/suggest.ts";
import type { FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto } from "./onnx_schema.ts";

/** The newest IR version that ONNX Runtime 1.30 loads. */
export const MAX_IR_VERSION = 13;
/** The opsets of the default domain that we read. */
export const OPSETS = { min: 11, max: 26 } as const;

/** Names that a subgraph may use from outside. */
interface Scope {
  readonly names: ReadonlySet<string>;
  readonly parent: Scope | undefined;
}

/** A list of nodes with its surroundings: a graph, or the body of a function. */
interface Body {
  readonly where: string;
  readonly nodes: NodeProto[];
  readonly given: readonly string[];
  readonly outputs: readonly string[];
  readonly scope: Scope | undefined;
}

/**
 * Checks versions, graphs and functions of `model`; `path` names it in errors. Nodes that stand after their users are put in
 * order, in place.
 *
 * @throws {FormatError} Naming the node and the value where something is wrong.
 */
export function checkModel(model: ModelProto, path: string): void {
  checkVersions(model, path);
  if (!model.graph) throw new FormatError(`Cannot read ${path} as an ONNX model: it holds no graph`);
  checkGraph(model.graph, { path, scope: undefined, at: "" });
  const ids = new Set<string>();
  for (const f of model.functions) {
    const id = functionId(f);
    if (ids.has(id)) throw new FormatError(`Cannot read ${path}: function ${id} is defined twice`);
    ids.add(id);
    checkFunction(f, path);
  }
}

/** `domain::name`, with the overload if there is one; the default domain is empty. */
export function functionId(f: { domain: string; overload: string; name: string }): string {
  return `${normalDomain(f.domain)}::${f.name}${f.overload ? `:${f.overload}` : ""}`;
}

/** The default domain has two spellings; this is the short one. */
export function normalDomain(domain: string): string {
  return domain === "ai.onnx" ? "" : domain;
}

/** How errors name a node: by name where it has one, else by its first output. */
export function nodeLabel(node: NodeProto): string {
  const name = node.name || node.output.find((o) => o !== "") || "";
  return `${node.opType || "node"} ${JSON.stringify(name)}`;
}

function checkVersions(model: ModelProto, path: string): void {
  const { irVersion, opsetImport } = model;
  if (irVersion < 1n) {
    throw new FormatError(`Cannot read ${path} as an ONNX model: it names no IR version`, {
      hint: "the file is probably of another kind",
    });
  }
  if (irVersion > BigInt(MAX_IR_VERSION)) {
    throw new FormatError(
      `Cannot read ${path}: it has IR version ${irVersion}, and at most ${MAX_IR_VERSION} is known`,
      {
        hint: `save it with an older onnx package, or set ir_version = ${MAX_IR_VERSION}`,
      },
    );
  }
  const opset = defaultOpset(opsetImport);
  if (opset === undefined) {
    if (opsetImport.length > 0 && !usesDefaultDomain(model)) return;
    throw new FormatError(`Cannot read ${path}: it imports no opset of the default domain`);
  }
  if (opset < BigInt(OPSETS.min) || opset > BigInt(OPSETS.max)) {
    const older = opset < BigInt(OPSETS.min);
    throw new FormatError(
      `Cannot read ${path}: it uses opset ${opset}, ${
        older ? "older" : "newer"
      } than the supported ${OPSETS.min} to ${OPSETS.max}`,
      { hint: older ? "convert it with onnx.version_converter, or export it again" : "export it with an older opset" },
    );
  }
}

function defaultOpset(imports: readonly OperatorSetIdProto[]): bigint | undefined {
  return imports.find((o) => normalDomain(o.domain) === "")?.version;
}

function usesDefaultDomain(model: ModelProto): boolean {
  return model.graph?.node.some((n) => normalDomain(n.domain) === "") ?? false;
}

function checkGraph(
  graph: GraphProto,
  { path, scope, at }: { path: string; scope: Scope | undefined; at: string },
): void {
  const where = `${path}${at}`;
  if (graph.sparseInitializer.length > 0) {
    const name = graph.sparseInitializer[0]!.values?.name ?? "";
    throw new FormatError(`Cannot read ${where}: initializer ${JSON.stringify(name)} is sparse`, {
      hint: "store it dense: sparse tensors are not supported",
    });
  }
  const inputs = graph.input.map((v) => v.name), initializers = graph.initializer.map((t) => t.name);
  for (
    const [kind, names] of [["input", inputs], ["initializer", initializers], [
      "output",
      graph.output.map((v) => v.name),
    ]] as const
  ) {
    checkNames(names, kind, where);
  }
  checkBody({
    where,
    nodes: graph.node,
    given: [...inputs, ...initializers],
    outputs: graph.output.map((v) => v.name),
    scope,
  }, path);
}

function checkNames(names: readonly string[], kind: string, where: string): void {
  const seen = new Set<string>();
  for (const name of names) {
    if (name === "") throw new FormatError(`Cannot read ${where}: an ${kind} has no name`);
    if (seen.has(name) && kind !== "output") {
      throw new FormatError(`Cannot read ${where}: ${kind} ${JSON.stringify(name)} is defined twice`);
    }
    seen.add(name);
  }
}

function checkFunction(f: FunctionProto, path: string): void {
  const where = `function ${functionId(f)} of ${path}`;
  checkNames(f.input, "input", where);
  checkBody({ where, nodes: f.node, given: f.input, outputs: f.output, scope: undefined }, path);
}

function checkBody(body: Body, path: string): void {
  const { where, nodes, scope } = body;
  const given = new Set(body.given);
  const producer = new Map<string, number>();
  for (const [i, node] of nodes.entries()) {
    if (node.opType === "") throw new FormatError(`Cannot read ${where}: ${nodeLabel(node)} names no op`);
    for (const name of node.output) {
      if (name === "") continue;
      if (producer.has(name) || given.has(name)) {
        const other = producer.has(name) ? nodeLabel(nodes[producer.get(name)!]!) : "an input or initializer";
        throw new FormatError(
          `Cannot read ${where}: value ${JSON.stringify(name)} is defined twice, by ${other} and by ${nodeLabel(node)}`,
        );
      }
      producer.set(name, i);
    }
  }
  const names = new Set([...given, ...producer.keys()]);
  const needs: number[][] = nodes.map((node) => {
    const before: number[] = [];
    for (const name of usedBy(node)) {
      const by = producer.get(name);
      if (by !== undefined) before.push(by);
      else if (!given.has(name) && !inScope(scope, name)) throw undefinedValue(name, nodeLabel(node), where, names);
    }
    return before;
  });
  for (const name of body.outputs) {
    if (!names.has(name) && !inScope(scope, name)) throw undefinedValue(name, "the output list", where, names);
  }
  if (needs.some((before, i) => before.some((j) => j >= i))) sortNodes(nodes, needs, where);
  for (const node of nodes) {
    for (const graph of subgraphs(node)) {
      checkGraph(graph, { path, scope: { names, parent: scope }, at: `, in a subgraph of ${nodeLabel(node)}` });
    }
  }
}

function undefinedValue(name: string, user: string, where: string, names: ReadonlySet<string>): FormatError {
  return new FormatError(
    `Cannot read ${where}: ${user} uses ${JSON.stringify(name)}, which nothing defines${didYouMean(name, [...names])}`,
  );
}

function inScope(scope: Scope | undefined, name: string): boolean {
  for (let s = scope; s; s = s.parent) if (s.names.has(name)) return true;
  return false;
}

/** Graphs in the attributes of `node`. */
export function subgraphs(node: NodeProto): GraphProto[] {
  return node.attribute.flatMap((a) => (a.g ? [a.g, ...a.graphs] : a.graphs));
}

/** Names that `node` reads: its inputs, and what its subgraphs take from outside. */
function usedBy(node: NodeProto): Set<string> {
  const used = new Set(node.input.filter((name) => name !== ""));
  for (const graph of subgraphs(node)) for (const name of captured(graph)) used.add(name);
  return used;
}

function captured(graph: GraphProto): Set<string> {
  const own = new Set([...graph.input.map((v) => v.name), ...graph.initializer.map((t) => t.name)]);
  for (const node of graph.node) for (const name of node.output) own.add(name);
  const used = new Set(graph.output.map((v) => v.name));
  for (const node of graph.node) for (const name of usedBy(node)) used.add(name);
  return used.difference(own);
}

/** Puts `nodes` in order, in place, keeping the given order where it is free (depth first, without recursion). */
function sortNodes(nodes: NodeProto[], needs: readonly (readonly number[])[], where: string): void {
  const state = new Uint8Array(nodes.length); // 0 not seen, 1 on the stack, 2 placed
  const order: number[] = [];
  for (let root = 0; root < nodes.length; root++) {
    if (state[root] !== 0) continue;
    state[root] = 1;
    const stack = [{ node: root, next: 0 }];
    while (stack.length > 0) {
      const top = stack[stack.length - 1]!;
      const need = needs[top.node]![top.next++];
      if (need === undefined) {
        state[top.node] = 2;
        order.push(top.node);
        stack.pop();
      } else if (state[need] === 1) {
        throw new FormatError(`Cannot read ${where}: ${nodeLabel(nodes[need]!)} needs its own output (a cycle)`);
      } else if (state[need] === 0) {
        state[need] = 1;
        stack.push({ node: need, next: 0 });
      }
    }
  }
  const sorted = order.map((i) => nodes[i]!);
  sorted.forEach((node, i) => nodes[i] = node);
}
