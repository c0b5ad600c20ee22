/** Every kernel that the ops' examples need compiles with NVIDIA's compiler, for each architecture that is supported. */
import assert from "node:assert/strict";
import { type Graph, isCall } from "../../src/graph/graph.ts";
import { REPLICATE } from "../../src/graph/placement.ts";
import { drawOfLastRows } from "../../src/ops/kernels/draw.ts";
import { topOfLastRows } from "../../src/ops/kernels/top.ts";
import { codeLaunch } from "../../src/runtime/cuda/code_text.ts";
import { loweringOf } from "../../src/ops/kernels/table.ts";
import { OPS } from "../../src/ops/table.ts";
import { localize } from "../../src/passes/localize.ts";
import type { DType } from "../../src/core/dtype.ts";
import { lowerGraph } from "../../src/runtime/cuda/lower.ts";
import { PRELUDE } from "../../src/runtime/cuda/prelude.ts";
import { exampleGraph } from "../support/op_examples.ts";
import { CudaLibraries } from "../../src/ffi/cuda_libraries.ts";
import { Nvrtc } from "../../src/ffi/nvrtc.ts";
import { ARCHITECTURES, nvccMissing, requireNvcc } from "./kernel_gate.ts";
import { wheels } from "./wheels.ts";

const missing = Deno.env.get("SHARDWISE_TEST_ALL") === "1"
  ? await nvccMissing()
  : "SHARDWISE_TEST_ALL=1 runs it, in minutes";

/** The texts of all examples, and of picking tokens, with floats held as `float`. */
function texts(float: DType): string[] {
  const held = (dtype: DType) => (dtype === "f32" ? float : dtype);
  const found = new Map<string, string>();
  for (const def of OPS.values()) {
    for (const example of def.examples) {
      const { graph } = exampleGraph(def, example);
      if (!loweringOf(graph.nodes.find(isCall)!)) continue;
      const values = new Map([...graph.values].map(([n, v]) => [n, { ...v, placement: REPLICATE }] as const));
      const whole: Graph<"sharded"> = { ...graph, stage: "sharded", values };
      const { commands } = lowerGraph(localize(whole, 0, 1), { bindings: new Map(), rank: 0, ranks: 1, held });
      for (const c of commands) {
        if (c.kind !== "kernel") continue;
        // The other form of a kernel differs in where its numbers come from, so some of them stand for all.
        const { plain, sized } = c.launch, both = found.size % 16 === 0 ? [plain, sized] : [plain];
        for (const { name, text } of both) found.set(name, text);
      }
    }
  }
  for (const penalised of [false, true]) {
    const logits = { dtype: float, shape: [2, 3, 9000] },
      drawings = [false, true].map((draws) => ({ draws, penalised }));
    const picks = [topOfLastRows(logits, 5, { penalised }), ...drawings.map((d) => drawOfLastRows(logits, d))];
    for (const { steps } of picks) {
      for (const step of steps) {
        if (step.kind !== "code") continue;
        const { plain, sized } = codeLaunch(step)!;
        for (const { name, text } of [plain, sized]) found.set(name, text);
      }
    }
  }
  return [...found.values()];
}

Deno.test({
  name: `nvcc compiles the kernels of all ops${missing ? ` (skipped: ${missing})` : ""}`,
  ignore: missing !== undefined,
  fn: async () => {
    for (const float of ["f32", "f16", "bf16"] as const) {
      const source = PRELUDE + texts(float).join("\n");
      for (const architecture of ARCHITECTURES) {
        await requireNvcc([{ name: `the kernels of all ops in ${float}`, source }], [architecture]);
      }
    }
  },
});

const site = await wheels(), noWheels = "missing" in site ? site.missing : undefined;

Deno.test({
  name: `the real NVRTC compiles the kernels of all ops${noWheels ? ` (skipped: ${noWheels})` : ""}`,
  ignore: noWheels !== undefined,
  fn: () => {
    const folder = "folder" in site ? site.folder : "";
    const nvrtc = new Nvrtc(new CudaLibraries({ env: {}, sitePackages: [folder] }));
    // nvcc, which has the same front end, compiles each for all; what is shown here is that no header is missing.
    for (const [float, architecture] of [["f16", 75], ["bf16", 80], ["f32", 90], ["bf16", 100]] as const) {
      const options = [`--gpu-architecture=sm_${architecture}`, "--std=c++17"];
      const { kind } = nvrtc.compile({ source: PRELUDE + texts(float).join("\n"), name: `${float}.cu`, options });
      assert.equal(kind, "cubin");
    }
  },
});
