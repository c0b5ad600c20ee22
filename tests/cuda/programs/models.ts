// deno-lint-ignore-file no-console
/**
 * Runs model folders on GPUs, one a rank, and prints for each case how far the outputs are from what PyTorch gives, and how greedy text goes.
 * Arguments: the largest difference allowed, the dtype to hold floats in or `-`, folders.
 */
import { readCases } from "../../../cli/cases.ts";
import { compareTensors } from "../../../cli/compare.ts";
import { readTensors } from "../../../src/formats/tensor_file.ts";
import { generate } from "../../../src/generate/generate.ts";
import { Sampler } from "../../../src/generate/sampler.ts";
import { init } from "../../../src/runtime/comm/init.ts";
import { requireHeldDType } from "../../../src/runtime/device_choice.ts";
import { parallelizeModel } from "../../../src/session.ts";

const [tolerance, dtype, ...folders] = Deno.args;
await using comm = await init({ device: "cuda" });
for (const folder of folders) {
  const { cases } = readCases([folder]);
  for (const [path, own] of Map.groupBy(cases, (c) => c.model)) {
    await using model = await parallelizeModel(path, {
      comm,
      device: "cuda",
      ...(dtype === "-" ? {} : { dtype: requireHeldDType(dtype!) }),
    });
    for (const c of own) {
      if (c.kind === "outputs") {
        const got = await model.run(Object.fromEntries(await readTensors(c.inputs)));
        const wanted = await readTensors(c.expected), limits = { atol: Number(tolerance), rtol: Number(tolerance) };
        const differences = compareTensors(got, wanted, limits), bad = differences.filter((d) => !d.pass);
        const text = bad.map((d) => `${d.name} ${d.problem ?? d.maxAbs}`).join(", ");
        if (comm.rank === 0) console.log(`${c.name}: ${differences.length} outputs ${text || "agree"}`);
      } else if (c.kind === "greedy" && typeof c.prompt !== "string" && dtype === "-") {
        const options = { sampler: new Sampler(), maxNewTokens: c.expected.length };
        const ids = await Array.fromAsync(generate(model, c.prompt, options));
        const same = ids.length === c.expected.length && ids.every((id, i) => id === c.expected[i]);
        if (comm.rank === 0) console.log(`${c.name}: ${ids.length} tokens ${same ? "agree" : ids.join()}`);
      }
    }
  }
}
