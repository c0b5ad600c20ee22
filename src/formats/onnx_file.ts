/**
 * An ONNX file, opened: the decoded and checked model, its functions inlined, and its tensors as lazy sources.
 */
import { dirname } from "node:path";
import { FormatError } from "../core/errors.ts";
import { type ByteSource, openRanges, type OpenSource } from "./mapped_file.ts";
import { checkModel, nodeLabel, normalDomain, subgraphs } from "./onnx_check.ts";
import { inlineFunctions } from "./onnx_functions.ts";
import type { GraphProto, ModelProto, TensorProto } from "./onnx_messages.ts";
import { externalPath, onnxTensor, type TensorContext } from "./onnx_tensor.ts";
import { decodeModel } from "./onnx_wire.ts";
import type { TensorSource } from "./tensor_source.ts";

/** How to open a model. */
export interface ReadOnnxOptions {
  /**
   * Opens the model's file and its data files. With the default, which reads ranges, a model's own file is read whole (weights in data files never
   * are); with a mapping, inline weights stay views of it.
   */
  readonly open?: OpenSource;
}

/** A decoded model and its tensors. Keep it until nothing reads its tensors any more. */
export interface OnnxFile extends Disposable {
  /** Of the model, as it was given. */
  readonly path: string;
  /** The folder of the model, in which its external data lies. */
  readonly directory: string;
  /**
   * Functions are inlined, and every graph's nodes are in order.
   *
   * @internal
   */
  readonly model: ModelProto;
  /**
   * The main graph of `model`.
   *
   * @internal
   */
  readonly graph: GraphProto;
  /** Version by domain; the default domain is `""`. */
  readonly opsets: ReadonlyMap<string, number>;
  /** The initializers of the main graph, by name. */
  readonly initializers: ReadonlyMap<string, TensorSource>;
  /**
   * The sources of all tensors of `model`: of initializers and attributes, those of subgraphs included.
   *
   * @internal
   */
  readonly tensors: ReadonlyMap<TensorProto, TensorSource>;
  /**
   * The source of one of them, or of a tensor that was made of them.
   *
   * @internal
   */
  tensor(proto: TensorProto): TensorSource;
}

/**
 * Opens the ONNX model at `path` and checks all of it: structure, versions, names, order, and of every tensor that its data is there. Reads no weights.
 *
 * @throws {FormatError} If something is wrong, naming the file and the place in it.
 */
export function readOnnx(path: string, options: ReadOnnxOptions = {}): OnnxFile {
  const files = new DataFiles(path, options.open ?? openRanges);
  try {
    const bytes = files.model.bytes(0, files.model.size);
    const model = decodeModel(bytes, path);
    checkModel(model, path);
    inlineFunctions(model, path);
    const tensors = new Map<TensorProto, TensorSource>();
    const context: TensorContext = {
      path,
      file: bytes,
      external: (location, place) => files.external(location, place),
    };
    const graph = model.graph!;
    let initializers: Map<string, TensorSource> | undefined;
    indexTensors(graph, { tensors, context });
    return {
      path,
      directory: dirname(path),
      model,
      graph,
      opsets: new Map(model.opsetImport.map((o) => [normalDomain(o.domain), Number(o.version)])),
      get initializers() {
        return initializers ??= new Map(graph.initializer.map((t) => [t.name, tensors.get(t)!]));
      },
      tensors,
      tensor(proto) {
        return tensors.get(proto) ?? onnxTensor(proto, () => `tensor ${JSON.stringify(proto.name)}`, context);
      },
      [Symbol.dispose]() {
        files[Symbol.dispose]();
      },
    };
  } catch (error) {
    files[Symbol.dispose]();
    throw error;
  }
}

/** Makes and so checks the source of every tensor, in subgraphs too. */
function indexTensors(
  graph: GraphProto,
  to: { tensors: Map<TensorProto, TensorSource>; context: TensorContext },
): void {
  const add = (proto: TensorProto, place: () => string) => to.tensors.set(proto, onnxTensor(proto, place, to.context));
  for (const proto of graph.initializer) add(proto, () => `initializer ${JSON.stringify(proto.name)}`);
  for (const node of graph.node) {
    for (const attribute of node.attribute) {
      const place = () => `attribute ${JSON.stringify(attribute.name)} of ${nodeLabel(node)}`;
      if (attribute.sparseTensor || attribute.sparseTensors.length > 0) {
        throw new FormatError(`Cannot read ${place()} of ${to.context.path}: it is a sparse tensor`, {
          hint: "store it dense: sparse tensors are not supported",
        });
      }
      if (attribute.t) add(attribute.t, place);
      for (const proto of attribute.tensors) add(proto, place);
    }
    for (const inner of subgraphs(node)) indexTensors(inner, to);
  }
}

/** The model's file and the data files that its tensors name, each opened once. */
class DataFiles implements Disposable {
  readonly model: ByteSource;
  readonly #path: string;
  readonly #open: OpenSource;
  readonly #external = new Map<string, ByteSource>();
  #roots: readonly string[] | undefined;

  constructor(path: string, open: OpenSource) {
    this.#path = path;
    this.#open = open;
    this.model = open(path);
  }

  external(location: string, place: () => string): ByteSource {
    let source = this.#external.get(location);
    if (source) return source;
    const where = place();
    const directory = dirname(this.#path);
    // A cache of downloads links the model and its data into one folder: the folder of the linked file is the model's own as well.
    this.#roots ??= [Deno.realPathSync(directory), dirname(Deno.realPathSync(this.#path))];
    const path = externalPath(location, { directory, roots: this.#roots, where, path: this.#path });
    try {
      source = this.#open(path);
    } catch (cause) {
      if (!(cause instanceof FormatError)) throw cause;
      throw new FormatError(
        `Cannot read ${where} of ${this.#path}: its external data ${JSON.stringify(location)} cannot be opened`,
        {
          hint: cause.hint ?? "fetch the data file too, and keep it beside the model",
          cause,
        },
      );
    }
    this.#external.set(location, source);
    return source;
  }

  [Symbol.dispose](): void {
    this.model[Symbol.dispose]();
    for (const source of this.#external.values()) source[Symbol.dispose]();
    this.#external.clear();
  }
}
