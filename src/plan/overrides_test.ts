import assert from "node:assert/strict";
import { PlanError } from "../core/errors.ts";
import { matchesLayer, nearLayers } from "./layer_names.ts";
import { type OverridableLayer, type Overrides, resolveOverrides } from "./overrides.ts";

function layer(name: string, scope: string | undefined, heavy = true): OverridableLayer {
  return {
    name,
    scope,
    heavy,
    kinds: ["replicated", "column"],
    allows: (wish) => wish === "column" || wish === "S(1)",
    whyNot: (wish) => `nobody can be ${wish}`,
  };
}

const LAYERS = [
  layer("/h.0/mlp/fc/MatMul", "transformer.h.0.mlp.fc"),
  layer("/h.0/mlp/fc/Add", "transformer.h.0.mlp.fc", false),
  layer("/h.1/mlp/fc/MatMul", "transformer.h.1.mlp.fc"),
  layer("head", undefined),
];

function resolved(overrides: Overrides): string[] {
  return [...resolveOverrides(overrides, LAYERS)].map(([name, wish]) => `${name} ${wish}`);
}

Deno.test("matchesLayer() takes whole components of names and scopes, with * for any characters", () => {
  const fc = { name: "/transformer/h.3/mlp/fc/MatMul", scope: "transformer.h.3.mlp.fc" };
  for (const pattern of ["h.*.mlp.fc", "mlp/fc", "*fc", "transformer.h.3.mlp.fc", fc.name, "h.3.*"]) {
    assert.ok(matchesLayer(pattern, fc), pattern);
  }
  for (const pattern of ["h.*.mlp.f", "c", "h.33.mlp.fc", "", "h.3.mlp.fc."]) {
    assert.ok(!matchesLayer(pattern, fc), pattern);
  }
});

Deno.test("resolveOverrides() means the product of a module, not the bias behind it, unless that is named", () => {
  assert.deepEqual(resolved({ "h.*.mlp.fc": "column" }), ["/h.0/mlp/fc/MatMul column", "/h.1/mlp/fc/MatMul column"]);
  assert.deepEqual(resolved({ "/h.0/mlp/fc/Add": "S(1)" }), ["/h.0/mlp/fc/Add S(1)"]);
  assert.deepEqual(resolved({ "*": "column", head: "S(1)" }).at(-1), "head S(1)");
});

Deno.test("resolveOverrides() says what is near where nothing matches, and why a wish cannot be met", () => {
  const refusal = (overrides: Overrides) => {
    try {
      resolved(overrides);
    } catch (error) {
      if (error instanceof PlanError) return error.message;
    }
    throw new Error("the overrides were accepted");
  };
  assert.equal(refusal({ "h.*.mlp.fcc": "column" }), 'No layer matches "h.*.mlp.fcc": did you mean "h.*.mlp.fc"?');
  assert.equal(refusal({ haed: "row" }), 'No layer matches "haed": did you mean "head"?');
  assert.equal(
    refusal({ head: "row" }),
    'Cannot make layer "head" row: nobody can be row; it can be replicated, column',
  );
  assert.match(refusal({ head: "columns" as "column" }), /did you mean "column"/);
});

Deno.test("nearLayers() lists what there is where nothing is near", () => {
  assert.match(nearLayers("something else entirely", LAYERS), /: known are "transformer\.h\.0\.mlp\.fc"/);
});
