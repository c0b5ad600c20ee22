// deno-lint-ignore-file no-console
/**
 * Opens a model with device auto on ranks of which some see no GPU; prints what joined them, and the notice. Arguments: the model, blind ranks,
 * or `own` where each rank sees one GPU alone, as schedulers give them out.
 */
import { init } from "../../../src/runtime/comm/init.ts";
import { parallelizeModel } from "../../../src/session.ts";

const [path, blind] = Deno.args as [string, string];
if (blind === "own") Deno.env.set("CUDA_VISIBLE_DEVICES", Deno.env.get("RANK") ?? "0");
else if (blind.split(",").includes(Deno.env.get("RANK") ?? "0")) Deno.env.set("CUDA_VISIBLE_DEVICES", "");
await using comm = await init({ device: "auto", joinTimeoutMs: 20_000 });
await using model = await parallelizeModel(path, { comm, device: "auto" });
console.log(`${comm.backend}: ${model.notice ?? "no notice"}`);
