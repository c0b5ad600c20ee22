/**
 * One rank's local graph as an ONNX model, and back.
 *
 * Collectives and sizes become nodes of the domain `shardwise.rank`, version 1; everything else is plain ONNX (docs/plan-json.md):
 *
 *     AllReduce      (x) -> y   reduction
 *     AllGather      (x) -> y   axis, layout
 *     ReduceScatter  (x) -> y   axis, layout, reduction
 *     Sizes          ()  -> i64 sizes (a list of expressions over the inputs' symbols), scalar
 */
import { dimKey, parseDim } from "../core/dim.ts";
import { FormatError } from "../core/errors.ts";
import { int, intOf, string, stringOf } from "../graph/attributes.ts";
import {
  type Call,
  type Carried,
  type Collective,
  type CollectiveKind,
  type Graph,
  isCall,
  type Node,
  type Value,
  valueOf,
} from "../graph/graph.ts";
import { parseLayout } from "../graph/placement_parser.ts";
import type { Reduction } from "../graph/placement.ts";
import { exportOnnx, type ExportOptions } from "./export_onnx.ts";
import { importOnnx } from "./import_onnx.ts";
import type { OnnxFile } from "./onnx_file.ts";

/** The domain of what plain ONNX cannot say of a rank's part. */
export const RANK_DOMAIN = "shardwise.rank";

/** The call's level (see `Call.level`), in the node's metadata. */
const LEVEL = "shardwise.level";

/** The op of each collective that communicates. */
const OPS = {
  all_reduce: "AllReduce",
  all_gather: "AllGather",
  reduce_scatter: "ReduceScatter",
} as const satisfies Partial<Record<CollectiveKind, string>>;

/** `graph` as the bytes of an ONNX model, with the types of all values. */
export function exportRankModel(
  graph: Graph<"local">,
  options: Pick<ExportOptions, "external" | "metadata">,
): Uint8Array<ArrayBuffer> {
  const nodes = graph.nodes.map((node): Node => {
    if (node.kind === "collective") return collectiveCall(node);
    if (!isCall(node) || node.domain !== "shardwise" || node.op !== "Sizes") return node;
    const { elements, dims } = valueOf(graph, node.outputs[0]!).ints!;
    return {
      ...node,
      domain: RANK_DOMAIN,
      attributes: { sizes: { kind: "strings", value: elements.map(dimKey) }, scalar: int(dims.length === 0 ? 1 : 0) },
    };
  });
  return exportOnnx({ ...graph, nodes }, {
    ...options,
    valueInfo: true,
    nodeMetadata: (node) => (node.level === undefined ? {} : { [LEVEL]: String(node.level) }),
  });
}

/**
 * The local graph that {@linkcode exportRankModel} wrote; `carried` are its states.
 *
 * @throws {FormatError} If the file is no such model.
 */
export function importRankModel(file: OnnxFile, carried: readonly Carried[]): Graph<"local"> {
  const imported = importOnnx(file);
  const metadata = new Map(
    file.graph.node.map((proto) => [
      proto.output.find((name) => name !== ""),
      new Map(proto.metadataProps.map(({ key, value }) => [key, value])),
    ]),
  );
  const values = new Map(imported.values);
  const nodes = imported.nodes.map((node): Node => {
    if (!isCall(node)) return node;
    if (node.domain === RANK_DOMAIN) {
      return node.op === "Sizes" ? sizesCall(node, values, file) : collectiveOf(node, file);
    }
    // Of the scope, only what was written counts: names of local nodes look like paths and are none.
    const { scope: _, ...call } = node;
    const said = metadata.get(node.outputs.find((name) => name !== ""));
    const level = said?.get(LEVEL), scope = said?.get("namespace");
    return { ...call, ...(level === undefined ? {} : { level: Number(level) }), ...(scope ? { scope } : {}) };
  });
  return { ...imported, stage: "local", nodes, values, carried };
}

function collectiveCall({ name, collective, inputs, outputs, shard, reduction }: Collective): Call {
  if (collective === "slice" || collective === "mask") {
    throw new FormatError(`Cannot export "${name}" of a rank's graph: a ${collective} is local, and lowered before`);
  }
  return {
    kind: "call_function",
    name,
    domain: RANK_DOMAIN,
    op: OPS[collective],
    inputs,
    outputs,
    attributes: {
      ...(shard ? { axis: int(shard.dim), layout: string(shard.layout.key) } : {}),
      ...(reduction ? { reduction: string(reduction) } : {}),
    },
  };
}

function collectiveOf(node: Call, { path }: OnnxFile): Collective {
  const kind = (Object.keys(OPS) as (keyof typeof OPS)[]).find((k) => OPS[k] === node.op);
  const [input, output] = [node.inputs[0], node.outputs[0]];
  if (!kind || !input || !output) {
    throw new FormatError(`Cannot read node "${node.name}" of ${path}: ${RANK_DOMAIN}.${node.op} is not known`, {
      hint: "export the model again",
    });
  }
  const axis = intOf(node.attributes, "axis"), key = stringOf(node.attributes, "layout");
  const layout = key === undefined ? undefined : parseLayout(key);
  if (kind !== "all_reduce" && (axis === undefined || !layout)) {
    throw new FormatError(`Cannot read node "${node.name}" of ${path}: ${node.op} needs an axis and a layout`);
  }
  const reduction = stringOf(node.attributes, "reduction");
  return {
    kind: "collective",
    name: node.name,
    collective: kind,
    inputs: [input],
    outputs: [output],
    ...(layout ? { shard: { dim: axis!, layout } } : {}),
    ...(reduction ? { reduction: reduction as Reduction } : {}),
  };
}

/** The node as localisation makes it, and its content as the value's `ints`. */
function sizesCall(node: Call, values: Map<string, Value>, { path }: OnnxFile): Call {
  const sizes = node.attributes.sizes, name = node.outputs[0];
  if (sizes?.kind !== "strings" || !name) {
    throw new FormatError(`Cannot read node "${node.name}" of ${path}: Sizes needs a list of sizes`);
  }
  const elements = sizes.value.map(parseDim);
  const dims = intOf(node.attributes, "scalar") === 1 ? [] : [elements.length];
  values.set(name, { name, type: { dtype: "i64", shape: dims }, ints: { dims, elements } });
  return { ...node, domain: "shardwise", attributes: {} };
}
