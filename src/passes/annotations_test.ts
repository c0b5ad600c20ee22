import assert from "node:assert/strict";
import { create, fromBinary } from "@bufbuild/protobuf";
import { readShardings, writeShardings } from "../formats/device_annotations.ts";
import { importOnnx } from "../formats/import_onnx.ts";
import { encodeModel } from "../formats/onnx_encode.ts";
import { type OnnxFile, readOnnx } from "../formats/onnx_file.ts";
import {
  ModelProtoSchema,
  NodeDeviceConfigurationProtoSchema,
  ShardingSpecProtoSchema,
} from "../../tests/support/onnx_schema.ts";
import type { Graph } from "../graph/graph.ts";
import { opDef } from "../ops/table.ts";
import { search } from "../plan/search.ts";
import { restrictionOf, shardingsOf } from "./annotations.ts";
import { ParallelExecutionCtx } from "./context.ts";
import { planOptions } from "./parallel_axis_solver_pass.ts";
import { cleanPipeline } from "./pipelines.ts";

function opened(name: string): { file: OnnxFile; graph: Graph<"global"> } & Disposable {
  const file = readOnnx(`tests/data/models/${name}/model.onnx`);
  const graph = cleanPipeline().run(importOnnx(file), new ParallelExecutionCtx({ ranks: 1, rank: 0 }));
  return { file, graph, [Symbol.dispose]: () => file[Symbol.dispose]() };
}

for (const [name, ranks] of [["mlp", 2], ["llama", 2], ["llama", 3], ["bert", 4]] as const) {
  Deno.test(`annotations of ${name}'s plan on ${ranks} ranks lead the search to the same plan`, () => {
    using model = opened(name);
    const { file, graph } = model;
    const plan = search(graph, { ranks, opDef });
    writeShardings(file.model, { name: "tp", devices: ranks }, shardingsOf(graph, plan));
    const proto = fromBinary(ModelProtoSchema, encodeModel(file.model));
    assert.equal(proto.irVersion, 11n);
    const annotations = readShardings({ ...file, model: proto, graph: proto.graph! }, "tp");
    assert.ok(annotations.length > graph.nodes.length / 4);
    assert.deepEqual(search(graph, planOptions({ annotations }, ranks, graph)), plan);
  });
}

Deno.test("annotations overrule the search: a layer that they say is whole stays whole", () => {
  using model = opened("mlp");
  const { graph } = model;
  const whole = ["x", "val_0", "linear"].map((tensor) => ({ tensor, devices: [], grouped: false, cuts: [] }));
  const annotations = [{ name: "node_MatMul_1", outputs: ["val_1"], tensors: whole }];
  const plan = search(graph, planOptions({ annotations }, 2, graph));
  assert.deepEqual(plan.strategies.get("node_MatMul_1")!.inputs.map((p) => p.kind), ["R", "R", "R"]);
  assert.equal(search(graph, { ranks: 2, opDef }).strategies.get("node_MatMul_1")!.inputs[1]!.kind, "S");
});

Deno.test("annotations that no plan can follow are refused with the tensor and the reason", () => {
  using model = opened("mlp");
  const { graph } = model;
  const on = (tensor: Partial<Parameters<typeof restrictionOf>[1][number]["tensors"][number]>) => () =>
    search(
      graph,
      planOptions(
        {
          annotations: [{
            name: "node_MatMul_1",
            outputs: [],
            tensors: [{ tensor: "val_0", devices: [], grouped: false, cuts: [], ...tensor }],
          }],
        },
        2,
        graph,
      ),
    );
  assert.throws(on({ grouped: true }), /"val_0" in node "node_MatMul_1": it names groups of devices/);
  assert.throws(on({ devices: [1, 0] }), /it lies on devices 1, 0, not on 0 to 1 in order/);
  assert.throws(on({ cuts: [{ axis: 0, shards: 4 }] }), /it is cut into 4 shards, not 2/);
  assert.throws(on({ cuts: [{ axis: 0, shards: 2 }, { axis: 1, shards: 2 }] }), /cut along 2 dims/);
  assert.throws(on({ cuts: [{ axis: 5, shards: 2 }] }), /its op has no such way to run on 2 ranks/);
});

Deno.test("an annotation of a tensor that the node does not have is refused", () => {
  using model = opened("mlp");
  const { file } = model;
  writeShardings(file.model, { name: "tp", devices: 2 }, () => []);
  file.graph.node[0]!.deviceConfigurations = [create(NodeDeviceConfigurationProtoSchema, {
    configurationId: "tp",
    shardingSpec: [create(ShardingSpecProtoSchema, { tensorName: "nowhere" })],
  })];
  assert.throws(() => readShardings(file, "tp"), /it has no tensor "nowhere"/);
});
