/**
 * What an exporter says of a node's origin: the path of the module that it comes from, for people and reports.
 *
 * torch's dynamo exporter writes it to `metadata_props`, its TorchScript exporter into the node's name
 * (`/model/layers.0/mlp/up_proj/MatMul`); others say nothing.
 */
import type { NodeProto } from "./onnx_messages.ts";

/** The module path of `node`, with dots (`model.layers.0.mlp.up_proj`), or undefined where nothing is said. */
export function scopeOf(node: NodeProto): string | undefined {
  for (const { key, value } of node.metadataProps) {
    const path = key === "pkg.torch.onnx.name_scopes"
      ? fromList(value)
      : key === "namespace"
      ? fromNamespace(value)
      : undefined;
    if (path) return path;
  }
  return fromName(node.name);
}

/** `['', 'model', 'model.layers.0', 'linear']`: scopes from the outside in, then the node itself. */
function fromList(text: string): string | undefined {
  const names = [...text.matchAll(/'([^']*)'|"([^"]*)"/g)].map((m) => m[1] ?? m[2] ?? "");
  return names.slice(0, -1).findLast((name) => name !== "");
}

/** `: Model/layers.0: Layer/linear: aten.linear.default`, or a plain path, as our own export writes it. */
function fromNamespace(text: string): string | undefined {
  if (!text.includes(":")) return text || undefined;
  const names = text.split("/").map((part) => part.split(":")[0]!.trim());
  return names.slice(0, -1).findLast((name) => name !== "");
}

/** `/model/layers.0/mlp/MatMul` → `model.layers.0.mlp`. */
function fromName(name: string): string | undefined {
  const parts = name.split("/").filter((part) => part !== "");
  return parts.length > 1 ? parts.slice(0, -1).join(".") : undefined;
}
