/** Rows that data counts, on a GPU: as many as there could be, of which those that are not there end nowhere. */
import assert from "node:assert/strict";
import { GraphError } from "../../src/core/errors.ts";
import { fromNumbers } from "../../src/core/host_tensor.ts";
import { CudaLibraries } from "../../src/ffi/cuda_libraries.ts";
import type { Graph } from "../../src/graph/graph.ts";
import { REPLICATE } from "../../src/graph/placement.ts";
import { parseGraph } from "../../src/graph/text_parser.ts";
import { inferTypes } from "../../src/passes/infer_types.ts";
import { localize } from "../../src/passes/localize.ts";
import { GpuDevice } from "../../src/runtime/cuda/device.ts";
import { requireSeparateRows } from "../../src/ops/kernels/bounded.ts";
import { hostNodes, opsOf } from "../../src/runtime/cuda/host_nodes.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { assertGpuCases } from "../support/gpu_examples.ts";
import { cudaTest } from "../support/standin.ts";

/** The rows of x that a mask keeps, changed, in their places; `more` comes after. */
function graphOf(more: string): Graph<"local"> {
  const graph = inferTypes(
    parseGraph(`graph g : global {opset=16}
%x = placeholder : f32[700,4]
%mask = placeholder : bool[700]
%found = NonZero(%mask) : ?[?]
%index = Transpose(%found) {perm=[1,0]} : ?[?]
%own = GatherND(%x, %index) : ?[?]
%changed = Exp(%own) : ?[?]
${more}
`) as Graph<"global">,
  );
  const values = new Map([...graph.values].map(([n, v]) => [n, { ...v, placement: REPLICATE }] as const));
  return localize({ ...graph, stage: "sharded", values }, 0, 1);
}

cudaTest("rows that a mask counts come back to their places, and those that are not there nowhere", async (env) => {
  using device = new GpuDevice({ gpu: 0, libraries: new CudaLibraries({ env }) });
  const engine = await openNativeEngine();
  const x = fromNumbers("f32", [700, 4], Array.from({ length: 2800 }, (_, i) => (i % 37) / 10));
  const masks = [(i: number) => i % 3 === 0, () => false, () => true, (i: number) => i > 690];
  for (const reduction of ["none", "add"]) {
    const local = graphOf(`%y = ScatterND(%x, %index, %changed) {reduction="${reduction}"} : f32[700,4]\noutput %y`);
    assert.equal(hostNodes(local).size, 0);
    const cases = masks.map((keeps, i) => {
      const mask = fromNumbers("bool", [700], Array.from({ length: 700 }, (_, row) => Number(keeps(row))));
      return { name: `mask ${i} ${reduction}`, local, feeds: new Map([["x", x], ["mask", mask]]) };
    });
    await assertGpuCases(cases, { device, engine });
  }
});

Deno.test("where rows that data counts are mixed, or a result, the host counts them", () => {
  const mixed = graphOf("%y = ReduceMax(%changed) {axes=[0]} : ?[?]\noutput %y");
  assert.throws(
    () => requireSeparateRows(mixed),
    (error: Error) => error instanceof GraphError && /ReduceMax/.test(error.message),
  );
  assert.throws(() => requireSeparateRows(graphOf("output %changed")), /Cannot give "changed" from a GPU/);
  const shifted = graphOf("%next = Abs(%index) : ?[?]\n%y = ScatterND(%x, %next, %changed) : f32[700,4]\noutput %y");
  assert.throws(() => requireSeparateRows(shifted), /ScatterND/);
  for (const graph of [mixed, shifted]) assert.equal(opsOf(graph, hostNodes(graph)), "NonZero");
});
