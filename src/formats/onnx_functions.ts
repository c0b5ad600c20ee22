/**
 * Replaces every call of a model's own functions by the function's nodes, nested calls included, so that nothing after import
 * needs to know of functions.
 *
 * Before: `y = Twice[by = 3](x)`, with `Twice(a) { t = Scale[by = @by](a); b = Add(t, t) }`.
 * After: `y/t = Scale[by = 3](x); y = Add(y/t, y/t)`.
 */
import { FormatError } from "../core/errors.ts";
import { functionId, nodeLabel, normalDomain, subgraphs } from "./onnx_check.ts";
import {
  type AttributeProto,
  create,
  type FunctionProto,
  type GraphProto,
  type ModelProto,
  type NodeProto,
} from "./onnx_messages.ts";

/** More nodes than any model has: a few nested functions can otherwise unfold without end. */
const MAX_NODES = 250_000;

/**
 * Inlines all functions of `model`, in place, and empties `model.functions`. Attributes that a body takes by reference get the caller's value,
 * else the function's default, else they are left out. `path` names the model in errors.
 *
 * @throws {FormatError} If functions call each other in a circle, a call gives too many inputs, outputs or a wrong kind of attribute,
 * or a function follows another opset than the model.
 */
export function inlineFunctions(model: ModelProto, path: string): void {
  if (model.functions.length === 0 || !model.graph) return;
  const inliner = new Inliner(model, path);
  inliner.graph(model.graph);
  inliner.importOpsets();
  model.functions = [];
}

/** Renames values, and gives attribute references their values, inside one call. */
interface Frame {
  readonly call: string;
  readonly names: Map<string, string>;
  readonly attributes: ReadonlyMap<string, AttributeProto>;
}

class Inliner {
  readonly #model: ModelProto;
  readonly #path: string;
  readonly #functions: Map<string, FunctionProto>;
  readonly #taken = new Set<string>();
  readonly #used = new Set<FunctionProto>();
  readonly #active: string[] = [];
  #count = 0;

  constructor(model: ModelProto, path: string) {
    this.#model = model;
    this.#path = path;
    this.#functions = new Map(model.functions.map((f) => [functionId(f), f]));
    collectNames(model.graph!, this.#taken);
  }

  graph(graph: GraphProto): void {
    for (const node of graph.node) for (const inner of subgraphs(node)) this.graph(inner);
    graph.node = graph.node.flatMap((node) => this.#expand(node));
  }

  /** The model's opsets must cover what the bodies use, in the same version. */
  importOpsets(): void {
    const have = new Map(this.#model.opsetImport.map((o) => [normalDomain(o.domain), o.version]));
    for (const f of this.#used) {
      for (const { domain, version } of f.opsetImport) {
        const known = have.get(normalDomain(domain));
        if (known === undefined) {
          have.set(normalDomain(domain), version);
          const added = create("OperatorSetIdProto", { domain, version });
          this.#model.opsetImport = [...this.#model.opsetImport, added];
        } else if (known !== version && f.node.some((n) => normalDomain(n.domain) === normalDomain(domain))) {
          throw this.#fail(
            `function ${functionId(f)} follows opset ${version} of domain "${domain}", but the model follows ${known}`,
            "export the model with its functions inlined (torch.onnx.export with optimize=True)",
          );
        }
      }
    }
  }

  #expand(node: NodeProto): NodeProto[] {
    const f = this.#functions.get(functionId({ domain: node.domain, name: node.opType, overload: node.overload }));
    if (++this.#count > MAX_NODES) throw this.#fail(`its functions unfold to more than ${MAX_NODES} nodes`);
    if (!f) return [node];
    const id = functionId(f);
    if (this.#active.includes(id)) {
      throw this.#fail(`function ${id} calls itself, by ${[...this.#active, id].join(", then ")}`);
    }
    if (node.input.length > f.input.length || node.output.length > f.output.length) {
      throw this.#fail(
        `${
          nodeLabel(node)
        } has ${node.input.length} inputs and ${node.output.length} outputs, but function ${id} has ${f.input.length} and ${f.output.length}`,
      );
    }
    this.#used.add(f);
    this.#active.push(id);
    const frame = this.#enter(f, node);
    const body = f.node.map((n) => this.#copy(n, frame));
    // A result that is one of the inputs, or is asked for under two names, has no node of its own.
    f.output.forEach((formal, i) => {
      const actual = node.output[i] ?? "", inside = frame.names.get(formal) ?? "";
      if (actual !== "" && inside !== actual) {
        body.push(
          create("NodeProto", {
            opType: "Identity",
            name: `${frame.call}/${formal}`,
            input: [inside],
            output: [actual],
          }),
        );
      }
    });
    const expanded = body.flatMap((n) => this.#expand(n));
    this.#active.pop();
    return expanded;
  }

  #enter(f: FunctionProto, node: NodeProto): Frame {
    const call = node.name || node.output.find((o) => o !== "") || f.name;
    const names = new Map(f.input.map((formal, i) => [formal, node.input[i] ?? ""]));
    f.output.forEach((formal, i) => {
      const actual = node.output[i] ?? "";
      if (!names.has(formal)) names.set(formal, actual !== "" ? actual : this.#fresh(`${call}/${formal}`));
    });
    const attributes = new Map<string, AttributeProto>();
    for (const a of f.attributeProto) attributes.set(a.name, a);
    for (const a of node.attribute) attributes.set(a.name, a);
    return { call, names, attributes };
  }

  #copy(node: NodeProto, frame: Frame): NodeProto {
    const attribute = node.attribute.flatMap((a) => this.#attribute(a, node, frame));
    return create("NodeProto", {
      opType: node.opType,
      domain: node.domain,
      overload: node.overload,
      docString: node.docString,
      metadataProps: node.metadataProps,
      name: node.name === "" ? "" : `${frame.call}/${node.name}`,
      input: node.input.map((name) => this.#rename(name, frame)),
      output: node.output.map((name) => this.#rename(name, frame)),
      attribute,
    });
  }

  #attribute(a: AttributeProto, node: NodeProto, frame: Frame): AttributeProto[] {
    if (a.refAttrName !== "") {
      const value = frame.attributes.get(a.refAttrName);
      if (!value) return [];
      if (a.type !== 0 && value.type !== 0 && a.type !== value.type) {
        throw this.#fail(
          `attribute ${JSON.stringify(a.refAttrName)} given to ${frame.call} is of kind ${value.type}, but ${
            nodeLabel(node)
          } needs kind ${a.type}`,
        );
      }
      return [{ ...value, name: a.name, refAttrName: "" }];
    }
    if (!a.g && a.graphs.length === 0) return [a];
    const graphs = a.graphs.map((g) => this.#subgraph(g, frame));
    return [{ ...a, ...(a.g ? { g: this.#subgraph(a.g, frame) } : {}), graphs }];
  }

  /** A copy of a body's subgraph; its own names are renamed too, since each call must define them once. */
  #subgraph(graph: GraphProto, outer: Frame): GraphProto {
    const frame: Frame = { ...outer, names: new Map(outer.names) };
    const own = [...graph.input, ...graph.initializer].map((v) => v.name);
    for (const name of [...own, ...graph.node.flatMap((n) => n.output)]) {
      if (name !== "") frame.names.set(name, this.#fresh(`${frame.call}/${name}`));
    }
    const rename = (name: string) => this.#rename(name, frame);
    const copy = create("GraphProto", {
      name: graph.name,
      metadataProps: graph.metadataProps,
      input: graph.input.map((v) => ({ ...v, name: rename(v.name) })),
      output: graph.output.map((v) => ({ ...v, name: rename(v.name) })),
      valueInfo: graph.valueInfo.map((v) => ({ ...v, name: rename(v.name) })),
      initializer: graph.initializer.map((t) => ({ ...t, name: rename(t.name) })),
      node: graph.node.map((n) => this.#copy(n, frame)),
    });
    copy.node = copy.node.flatMap((n) => this.#expand(n));
    return copy;
  }

  #rename(name: string, frame: Frame): string {
    if (name === "") return "";
    const known = frame.names.get(name);
    if (known !== undefined) return known;
    const fresh = this.#fresh(`${frame.call}/${name}`);
    frame.names.set(name, fresh);
    return fresh;
  }

  #fresh(name: string): string {
    let unique = name;
    for (let n = 1; this.#taken.has(unique); n++) unique = `${name}_${n}`;
    this.#taken.add(unique);
    return unique;
  }

  #fail(what: string, hint?: string): FormatError {
    return new FormatError(`Cannot inline the functions of ${this.#path}: ${what}`, hint === undefined ? {} : { hint });
  }
}

function collectNames(graph: GraphProto, into: Set<string>): void {
  for (const v of [...graph.input, ...graph.output, ...graph.initializer, ...graph.valueInfo]) into.add(v.name);
  for (const node of graph.node) {
    for (const name of [...node.input, ...node.output]) into.add(name);
    for (const inner of subgraphs(node)) collectNames(inner, into);
  }
}
