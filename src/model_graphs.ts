/** The graphs of a model, as its files have them: a decoder may have two, for its first step and the later ones. */
import { FormatError } from "./core/errors.ts";
import { importOnnx } from "./formats/import_onnx.ts";
import { readOnnx } from "./formats/onnx_file.ts";
import { type Graph, valueOf } from "./graph/graph.ts";
import { joinSteps } from "./passes/first_step.ts";
import { specializeBranches } from "./passes/specialize_branches.ts";
import { mappedSources } from "./runtime/mapped_source.ts";
import type { OtherGraph, TensorInfo } from "./runtime/parallel_model.ts";

/** The two files of a decoder whose first step is a model of its own. */
export interface DecoderFiles {
  /** Without past keys and values: `decoder_model.onnx`. */
  readonly first: string;
  /** With them: `decoder_with_past_model.onnx`. */
  readonly next: string;
}

/** The graphs of one model, as they were imported. */
export interface ModelGraphs {
  readonly main: Graph<"global">;
  readonly other?: Omit<OtherGraph, "model"> & { readonly graph: Graph<"global"> };
}

/** Opens files that stay mapped as long as the graphs that were read from them are used. */
export class OpenFiles implements Disposable {
  readonly #sources = mappedSources();
  readonly #files = new DisposableStack();

  /** The graph of the file at `path`. */
  graph(path: string): Graph<"global"> {
    return importOnnx(this.#files.use(readOnnx(path, { open: this.#sources.open })));
  }

  [Symbol.dispose](): void {
    this.#files.dispose();
    this.#sources[Symbol.dispose]();
  }
}

/** The graph of a file, or its branches. */
export function modelGraphs(path: string, files: OpenFiles): ModelGraphs {
  const graph = files.graph(path);
  const branches = specializeBranches(graph);
  if (branches === undefined) return { main: graph };
  const { steps, input, whenTrue, whenFalse } = branches;
  const main = steps?.next ?? whenTrue, other = steps?.first ?? whenFalse;
  const choice = { input, value: other === whenTrue };
  return { main, other: { graph: other, first: steps !== undefined, choice, inputs: inputsOf(graph) } };
}

/** The graphs of a decoder in two files. */
export function decoderGraphs(files: DecoderFiles, opened: OpenFiles): ModelGraphs {
  const { first, next } = joinSteps(opened.graph(files.first), opened.graph(files.next));
  if (first.carried.length === 0 || first.carried.length < next.carried.length) {
    throw new FormatError(
      `Cannot go on from ${files.first} with ${files.next}: the first does not give all states that the second takes`,
      { hint: "take both files from one export" },
    );
  }
  return { main: next, other: { graph: first, first: true, choice: undefined, inputs: inputsOf(next) } };
}

/** All graphs of the file at `path`: both branches, where a boolean input decides. */
export function graphsOfFile(path: string, files: OpenFiles): Graph<"global">[] {
  const { main, other } = modelGraphs(path, files);
  return [main, ...(other ? [other.graph] : [])];
}

/** The inputs of a graph. */
export function inputsOf(graph: Graph): TensorInfo[] {
  return graph.nodes.flatMap((n) =>
    n.kind === "placeholder" ? [{ name: n.outputs[0], type: valueOf(graph, n.outputs[0]).type }] : []
  );
}
