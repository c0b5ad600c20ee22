/** The files of the ONNX project's node tests: a folder a test, with a model of one node and tensors. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fromBinary } from "@bufbuild/protobuf";
import { type HostTensor, hostTensorFromBytes } from "../../src/core/host_tensor.ts";
import { TensorProtoSchema } from "./onnx_schema.ts";
import { onnxTensor } from "../../src/formats/onnx_tensor.ts";

/** `input_0.pb`, … of a test, in the order of the graph. */
export function nodeTensors(folder: string, kind: "input" | "output"): HostTensor[] {
  const found: HostTensor[] = [];
  for (let i = 0;; i++) {
    const path = join(folder, "test_data_set_0", `${kind}_${i}.pb`);
    if (!existsSync(path)) return found;
    const file = Deno.readFileSync(path);
    const external = () => assert.fail(`${path} has external data`);
    const source = onnxTensor(fromBinary(TensorProtoSchema, file), () => `${kind} ${i}`, { path, file, external });
    found.push(hostTensorFromBytes(source.dtype, source.shape, source.bytes()));
  }
}

/** What ONNX's runner asks for, with an atol at which ONNX Runtime passes all of the tests. */
export function nodeTolerance(outputs: readonly HostTensor[]) {
  const half = outputs.some((t) => t.dtype === "f16");
  return { atol: half ? 1e-3 : 1e-5, rtol: 1e-3 };
}
