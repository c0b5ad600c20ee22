/**
 * What must hold of a decoded model before anything walks it: versions that we know, and in every graph names that are defined once,
 * before they are used.
 */
import { FormatError } from "../core/errors.ts";
import { didYouMean } from "../core/suggest.ts";
import {
  type FunctionProto,
  type GraphProto,
  type ModelProto,
  type NodeProto,
  NONE,
  type OperatorSetIdProto,
} from "./onnx_messages.ts";

/** The newest IR version that ONNX Runtime 1.30 loads. */
export const MAX_IR_VERSION = 13;
/** The opsets of the default domain that we read. */
export const OPSETS = { min: 11, max: 26 } as const;

/** Names that a subgraph may use from outside. */
interface Scope {
  readonly names: ReadonlyMap<string, unknown>;
  readonly parent: Scope | undefined;
}

/** A list of nodes with its surroundings: a graph, or the body of a function. */
interface Body {
  readonly where: string;
  readonly nodes: readonly NodeProto[];
  /** By name: {@linkcode GIVEN}, to which the numbers of the nodes are added that define others. */
  readonly definers: Definers;
  readonly outputs: readonly string[];
  readonly scope: Scope | undefined;
}

/**
 * Checks versions, graphs and functions of `model`; `path` names it in errors. Graphs whose nodes stand after their users get
 * them in order.
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
  const outputs = graph.output.map((v) => v.name);
  if (outputs.includes("")) throw nameless("output", where);
  const definers = givenBy(graph.initializer, "initializer", where);
  // An initializer of an input's name is its default.
  for (const [name, given] of givenBy(graph.input, "input", where)) definers.set(name, given);
  graph.node = checkBody({ where, nodes: graph.node, definers, outputs, scope }, path);
}

/** What defines the names of a graph. */
type Definers = Map<string, number>;

/** What a graph is given, each by a name of its own. */
function givenBy(list: readonly { readonly name: string }[], kind: string, where: string): Definers {
  const definers: Definers = new Map();
  for (const { name } of list) {
    if (name === "") throw nameless(kind, where);
    if (definers.size === definers.set(name, GIVEN).size) {
      throw new FormatError(`Cannot read ${where}: ${kind} ${JSON.stringify(name)} is defined twice`);
    }
  }
  return definers;
}

function nameless(kind: string, where: string): FormatError {
  return new FormatError(`Cannot read ${where}: an ${kind} has no name`);
}

function checkFunction(f: FunctionProto, path: string): void {
  const where = `function ${functionId(f)} of ${path}`;
  const definers = givenBy(f.input.map((name) => ({ name })), "input", where);
  f.node = checkBody({ where, nodes: f.node, definers, outputs: f.output, scope: undefined }, path);
}

/** The nodes of `body`, in order. */
function checkBody(body: Body, path: string): readonly NodeProto[] {
  const { where, nodes, definers, scope } = body;
  for (let i = 0; i < nodes.length; i++) {
    const node = nodes[i]!;
    if (node.opType === "") throw new FormatError(`Cannot read ${where}: ${nodeLabel(node)} names no op`);
    for (const name of node.output) {
      if (name === "") continue;
      const known = definers.get(name);
      if (known !== undefined) {
        const other = known === GIVEN ? "an input or initializer" : nodeLabel(nodes[known]!);
        throw new FormatError(
          `Cannot read ${where}: value ${JSON.stringify(name)} is defined twice, by ${other} and by ${nodeLabel(node)}`,
        );
      }
      definers.set(name, i);
    }
  }
  let inOrder = true;
  for (let i = 0; i < nodes.length; i++) {
    const node = nodes[i]!;
    for (const name of usedBy(node)) {
      const by = definers.get(name);
      if (by === undefined && name !== "" && !inScope(scope, name)) {
        throw undefinedValue(name, nodeLabel(node), where, definers);
      }
      inOrder &&= by === undefined || by < i;
    }
  }
  for (const name of body.outputs) {
    if (!definers.has(name) && !inScope(scope, name)) throw undefinedValue(name, "the output list", where, definers);
  }
  const sorted = inOrder ? nodes : sortNodes(nodes, definers, where);
  for (const node of sorted) {
    for (const graph of subgraphs(node)) {
      const inner = { names: definers, parent: scope };
      checkGraph(graph, { path, scope: inner, at: `, in a subgraph of ${nodeLabel(node)}` });
    }
  }
  return sorted;
}

/** What defines an input or initializer: before all nodes. */
const GIVEN = -1;

function undefinedValue(name: string, user: string, where: string, names: Scope["names"]): FormatError {
  return new FormatError(
    `Cannot read ${where}: ${user} uses ${JSON.stringify(name)}, which nothing defines${
      didYouMean(name, [...names.keys()])
    }`,
  );
}

function inScope(scope: Scope | undefined, name: string): boolean {
  for (let s = scope; s; s = s.parent) if (s.names.has(name)) return true;
  return false;
}

/** Graphs in the attributes of `node`. */
export function subgraphs(node: NodeProto): readonly GraphProto[] {
  if (node.attribute.length === 0 || !node.attribute.some((a) => a.g || a.graphs.length > 0)) return NONE;
  return node.attribute.flatMap((a) => (a.g ? [a.g, ...a.graphs] : a.graphs));
}

/** Names that `node` reads, some several times: its inputs, and what its subgraphs take from outside. */
function usedBy(node: NodeProto): readonly string[] {
  const inner = subgraphs(node);
  return inner.length === 0 ? node.input : [...node.input, ...inner.flatMap((graph) => [...captured(graph)])];
}

function captured(graph: GraphProto): Set<string> {
  const own = new Set([...graph.input.map((v) => v.name), ...graph.initializer.map((t) => t.name)]);
  for (const node of graph.node) for (const name of node.output) own.add(name);
  const used = new Set(graph.output.map((v) => v.name));
  for (const node of graph.node) for (const name of usedBy(node)) if (name !== "") used.add(name);
  return used.difference(own);
}

/** `nodes` in order, keeping the given one where it is free (depth first, without recursion). */
function sortNodes(nodes: readonly NodeProto[], definers: ReadonlyMap<string, number>, where: string): NodeProto[] {
  const needs = nodes.map((node) => {
    const before = new Set(usedBy(node).flatMap((name) => definers.get(name) ?? GIVEN));
    before.delete(GIVEN);
    return [...before];
  });
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
  return order.map((i) => nodes[i]!);
}
